"""One file for each kind of file; each turns its kind into a :class:`~scfm.cells.source.Source`."""
