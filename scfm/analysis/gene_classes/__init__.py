"""Parts of ``analysis=genes``: the label table, features of genes, their classification by fold."""
