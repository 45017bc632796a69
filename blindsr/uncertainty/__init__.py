"""How uncertain each pixel of a result is."""
