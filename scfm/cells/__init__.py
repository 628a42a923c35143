"""Cells of one open file, whatever its format: blocks of counts, genes, obs."""
