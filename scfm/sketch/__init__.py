"""A sample of the cells of a large file that keeps rare states, in memory that does not grow with the cells."""
