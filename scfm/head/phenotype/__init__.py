"""Heads that name the phenotype of a sample from its cells."""
