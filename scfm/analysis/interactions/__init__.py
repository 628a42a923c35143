"""Ligand-receptor pairs of a table, and the expression of their genes."""
