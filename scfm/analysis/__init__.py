"""What one asks of a trained model: a config group like the heads, one file and one yaml each.

An analysis is ``scfm/analysis/NAME.py`` with ``configs/analysis/NAME.yaml``; it reads cells by
:mod:`scfm.inference` and stands beside the simple method that a critic would name.
"""
