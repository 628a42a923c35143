"""Phenotypes of samples: cohorts, cross-validation by donor, baselines, tests of attention, associations."""
