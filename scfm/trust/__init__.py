"""What may be believed of files from strangers: allowed targets, whole archives, plain values."""
