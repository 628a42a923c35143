"""Evaluation: an embedding and what was trained with it, beside what a user would take instead."""
