"""Edges between genes: what expression alone gives, what a null gives, how a reference is recovered."""
