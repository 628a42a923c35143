"""What watches a run: throughput, health, saving, writing predictions."""
