"""Targets: log densities over named, unconstrained parameter spaces, for samplers."""
