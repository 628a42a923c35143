"""Cells that come with the package, and synthetic ones."""
