"""Ligand-receptor scores between groups of cells, from expression and group codes."""
