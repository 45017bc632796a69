"""What makes an image and a kernel from parameters."""
