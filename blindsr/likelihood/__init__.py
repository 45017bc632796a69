"""What the data say: data terms and noise models."""
