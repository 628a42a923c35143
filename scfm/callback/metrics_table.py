"""Metrics as a CSV file that a resumed run continues."""

import csv
import logging
import os
from io import StringIO
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from scfm.io import atomic_write, disk_full

log = logging.getLogger(__name__)


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
    def begin_anew(self) -> None:
        """Remove the rows and columns of an earlier run."""
        self.experiment.path.unlink(missing_ok=True)
        self.experiment.metrics_keys = []

    @rank_zero_only
    def drop_rows_from(self, step: int) -> None:
        """Drop the rows that a killed run wrote after the checkpoint it is resumed from.

        Args:
            step: optimizer steps that the checkpoint was trained for.
        """
        writer = self.experiment
        if writer.path.is_file():
            writer.rewrite([row for row in writer.rows() if int(row["step"]) < step])


class _Writer(ExperimentWriter):
    """Appends rows; where the columns change it writes the file anew, whole or not at all."""

    @property
    def path(self) -> Path:
        return Path(self.metrics_file_path)

    def rows(self) -> list[dict[str, str]]:
        """The rows of the file, without a last one that a kill has cut off."""
        with self.path.open(newline="") as file:
            text = file.read()
        return list(csv.DictReader(StringIO(text[: text.rfind("\n") + 1], newline="")))

    def rewrite(self, rows: list[dict[str, str]]) -> None:
        """Write these rows in place of the file's."""
        with atomic_write(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)

    def save(self) -> None:
        """Append the rows that are held; on a full disk they are held on to, and the run goes on without them."""
        size, keys = self.path.stat().st_size if self.path.is_file() else None, list(self.metrics_keys)
        try:
            super().save()
        except OSError as error:
            if disk_full(error) is None:
                raise
            log.warning("No space is left on the disk: the last rows of %s are not written.", self.path)
            self.metrics_keys = keys
            if size is None:
                self.path.unlink(missing_ok=True)
            elif self.path.stat().st_size > size:
                os.truncate(self.path, size)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.rewrite(self.rows())

    def _check_log_dir_exists(self) -> None:
        """What is there is continued; a run that begins anew removes it (see scfm.training.start)."""
        if self.path.is_file():
            with self.path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
