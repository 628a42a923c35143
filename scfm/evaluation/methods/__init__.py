"""What is compared, and how each is computed: embeddings, baselines, probes."""
