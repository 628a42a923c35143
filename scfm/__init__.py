"""scfm: rank-token transformers for single cells."""

__version__ = "0.1.0"
