"""What an estimate leaves: scores and files, the kernel's posterior, and the result object of `super_resolve`."""
