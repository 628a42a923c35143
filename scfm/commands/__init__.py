"""One file for each command; ``run(cfg)`` is what it does."""
