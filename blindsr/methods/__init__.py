"""Rows of parts: every method by its name."""
