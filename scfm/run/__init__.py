"""What each command does: ``scfm-NAME`` runs ``scfm.run.NAME.run(cfg)``."""
