"""The final report of a fine-tune, where its run is logged to Weights & Biases."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from scfm.training.tracking import log_report, wandb_loggers


def publish(loggers: Iterable[Logger], page: Path, metrics: Mapping[str, float]) -> None:
    """Send report, pictures and final metrics to W&B; other loggers have no place for them.

    Args:
        loggers: of the run.
        page: ``report.html``; the pictures beside it go along.
        metrics: final ones, into the run's summary.
    """
    for logger in wandb_loggers(loggers):
        import wandb

        run: Any = logger.experiment
        pictures = sorted(page.parent.glob("*.png"))
        shown: dict[str, Any] = {f"report/{path.stem}": wandb.Image(str(path)) for path in pictures}
        run.log({"report/page": wandb.Html(page.read_text(encoding="utf-8"), inject=False), **shown})
        run.summary.update({f"final/{name}": value for name, value in metrics.items()})
        log_report(logger, (page, *pictures))
