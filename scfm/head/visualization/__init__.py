"""Heads that draw cells into a map."""
