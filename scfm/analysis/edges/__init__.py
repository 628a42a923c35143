"""Edges between genes: gathered over cells, judged by a reference, reported."""
