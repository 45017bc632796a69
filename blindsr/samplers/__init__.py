"""What draws kernels."""
