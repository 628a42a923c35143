"""Heads that predict the response of cells to a perturbation."""
