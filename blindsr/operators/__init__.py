"""The forward operator, its adjoint, and facts about kernels."""
