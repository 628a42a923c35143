"""Heads that go from genes to another modality of the same cells."""
