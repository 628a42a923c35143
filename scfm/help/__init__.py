"""The keys of the commands with their explanations, for ``--help`` and for the site; read without importing a model."""
