"""Whether a metric is better the larger or the smaller it is."""

#: Metrics that are better the smaller they are.
FALLING = ("loss", "error", "reconstruction", "kl", "ece", "foscttm")


def falls(metric: str) -> bool:
    """Whether ``metric``, ``val/loss`` say, is better the smaller it is."""
    return metric.rsplit("/", 1)[-1] in FALLING
