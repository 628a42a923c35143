"""Scores of cells that were measured in two ways: genes with proteins, genes with peaks."""
