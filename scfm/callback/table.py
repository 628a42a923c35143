"""Metrics as a CSV file that a resumed run continues."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only


class MetricsTable(CSVLogger):
    """``metrics.csv`` of a run. Lightning's own logger deletes it when a run is resumed.

    Args:
        folder: where it goes.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__(save_dir=folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the file."""
        if self._experiment is None:
            self._experiment = _Writer(log_dir=self.log_dir)
        return self._experiment

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Drop the rows that a killed run wrote after the checkpoint it is resumed from.

        Args:
            step: optimizer steps that the checkpoint was trained for.
        """
        path = Path(self.experiment.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.experiment.metrics_keys)
                writer.writeheader()
                writer.writerows(rows)


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """What is there is continued; a run that begins anew has removed it (see scfm.training.fit)."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
