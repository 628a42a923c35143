"""Imported before numpy and torch: their libraries start no threads, so that this process can be forked."""

import os

for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
