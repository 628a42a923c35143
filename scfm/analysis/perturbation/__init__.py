"""Parts of ``analysis=perturb``: operations on rankings, embeddings of changed cells, states, tables, page."""
