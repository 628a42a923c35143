"""Heads that order cells along a process."""
