"""The tasks of cohorts.py: phenotypes, bulk cohorts, clusters, smaller models, responses to a drug."""
