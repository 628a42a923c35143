"""Backbones: transformers models on packed rows."""
