"""Cells: reading files, the token store, the order of training, batches."""
