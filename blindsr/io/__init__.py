"""Pictures, kernels and other files, in and out."""
