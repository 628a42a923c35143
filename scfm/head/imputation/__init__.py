"""Heads for the molecules that were not seen."""
