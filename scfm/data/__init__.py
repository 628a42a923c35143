"""From a token store to packed batches: splits, orders, loaders."""
