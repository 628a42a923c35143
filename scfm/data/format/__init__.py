"""One small file per kind of file; each turns its kind into a :class:`~scfm.data.format.base.Source`."""
