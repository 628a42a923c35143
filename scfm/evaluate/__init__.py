"""Judging embeddings and annotations beside what a user would pick instead."""
