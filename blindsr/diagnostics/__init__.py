"""Scores, pictures and plots of results."""
