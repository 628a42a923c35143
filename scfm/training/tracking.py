"""Predictions and files of a run, sent to W&B at its end beside the curves."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, WandbLogger

from scfm.data.module import CellData
from scfm.inference.write import store_columns
from scfm.module import CellModule
from scfm.training.finalize import Finished

#: The files of a pretraining that make its report, where they are there.
REPORT = ("config.yaml", "metrics.json", "metrics.csv", "*.png")


def show_samples(trainer: pl.Trainer, predictions: pd.DataFrame) -> None:
    """Log a table of predictions; nothing where W&B is not used, or the table is empty.

    Args:
        trainer: of the run; call this on its first rank.
        predictions: a few, one a row.
    """
    for logger in wandb_loggers(trainer.loggers):
        if len(predictions):
            logger.log_table("predictions", dataframe=predictions)


def send_files(trainer: pl.Trainer, output: Path) -> None:
    """Log the files of a run's folder as an artifact of type ``report``."""
    for logger in wandb_loggers(trainer.loggers):
        log_report(logger, sorted(path for pattern in REPORT for path in output.glob(pattern)))


def log_report(logger: WandbLogger, paths: Iterable[Path]) -> None:
    """Log files as the artifact ``report-RUN``."""
    import wandb

    artifact = wandb.Artifact(f"report-{logger.experiment.id}", type="report")
    for path in paths:
        artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact)


def close(trainer: pl.Trainer, exit_code: int = 0) -> None:
    """End the W&B run, so that the next trial of a sweep in this process does not go on with it."""
    if trainer.is_global_zero:
        for logger in wandb_loggers(trainer.loggers):
            logger.experiment.finish(exit_code=exit_code)


def gene_predictions(module: CellModule, data: CellData) -> pd.DataFrame:
    """A pretrained model's predictions for hidden genes of held-out cells: the sample of its last validation."""
    if not module.samples:
        return pd.DataFrame()
    names, samples = np.array(data.store.vocab.tokens), module.samples
    guesses = [
        ", ".join(f"{name} {share:.1%}" for name, share in zip(names[ids], shares, strict=True))
        for ids, shares in zip(samples["guess"], samples["probability"], strict=True)
    ]
    return pd.DataFrame(
        {
            "cell": list(data.store.names(samples["cell"])),
            "rank": samples["rank"],
            "gene": names[samples["true"]],
            "guesses": guesses,
            "right": samples["guess"][:, 0] == samples["true"],
        }
    )


def cell_predictions(done: Finished, data: CellData, n: int = 32) -> pd.DataFrame:
    """A fine-tuned head's predictions for the first held-out cells, beside their labels."""
    task, rows = done.module.task, done.judged[:n]
    if len(rows) == 0:
        return pd.DataFrame()
    outputs = {name: values[: len(rows)] for name, values in done.outputs.items()}
    written = task.write({**outputs, **store_columns(task, data.store, rows)}).obs
    if not written:
        return pd.DataFrame()
    columns: dict[str, Any] = {"cell": list(data.store.names(rows))}
    for label in task.labels:
        values, names = data.store.obs(label)[rows], data.store.categories(label)
        columns[label] = values if names is None else np.array([*names, "(missing)"])[values]
    return pd.DataFrame(columns | written)


def wandb_loggers(loggers: Iterable[Logger]) -> Iterator[WandbLogger]:
    """Those of the loggers that send to W&B."""
    return (logger for logger in loggers if isinstance(logger, WandbLogger))


def send_report(loggers: Iterable[Logger], page: Path, metrics: Mapping[str, float]) -> None:
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
