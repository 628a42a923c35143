"""Which tokens matter to what a model says: by attention, by gradients, by taking tokens away."""
