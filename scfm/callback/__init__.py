"""Callbacks of a run: saving, health, throughput, a watchdog, the metrics table."""
