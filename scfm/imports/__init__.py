"""How code is loaded: packages that may be missing, that load late, and where compiled code is kept."""
