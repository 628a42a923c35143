"""Heads that name the type of each cell."""
