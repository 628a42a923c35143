"""Hide messages of Lightning that users need not read."""

import logging
import warnings


def quiet_lightning() -> None:
    """Hide advertisements, and advice against what is done on purpose."""
    for chatty in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{chatty}").setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*LeafSpec.*",
        ".*checkpoint directory .* exists and is not empty.*",
        ".*infer the batch indices.*",
        ".*`srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message=message)
