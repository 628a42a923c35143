"""Smaller models from trained ones: fewer genes, layers and columns, narrower students, 8-bit weights."""
