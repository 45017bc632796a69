"""From a low-resolution image and a known kernel to an image."""
