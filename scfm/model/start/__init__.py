"""The weights that pretraining begins with: a config group, one file and one yaml each."""
