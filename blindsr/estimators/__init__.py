"""What finds the kernel, and perhaps the image: one resumable face."""
