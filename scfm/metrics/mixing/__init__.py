"""How evenly batches mix around a cell, and how far types stay apart."""
