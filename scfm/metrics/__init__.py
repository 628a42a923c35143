"""Scores computed from arrays: no AnnData, no config, no picture."""
