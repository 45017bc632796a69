"""How the image and the kernel take turns."""
