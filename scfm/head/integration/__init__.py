"""Heads that bring experimental batches together without losing biology."""
