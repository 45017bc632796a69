"""Whole jobs on files, as the command line runs them: `run`, `degrade`, `evaluate`."""
