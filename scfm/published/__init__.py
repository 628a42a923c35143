"""Checkpoints of other projects, read as ours: one file for each family of models."""
