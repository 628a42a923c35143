"""Heads that cluster cells without labels."""
