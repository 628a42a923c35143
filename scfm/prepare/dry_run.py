"""A dry run: all checks and the report, on the first cells of every file."""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scfm.prepare.api import prepare
from scfm.store.layout import REPORT
from scfm.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CELLS = 1000


def rehearse(
    inputs: str | Path | Sequence[str | Path], output: str | Path, tokenizer: Tokenizer, **options: Any
) -> Path:
    """Prepare the first 1,000 cells of each file aside, and keep the report only.

    Args:
        inputs: as for :func:`scfm.prepare.api.prepare`, like all that follows.
        output: the store that would be made.
        tokenizer: the tokenizer.
        **options: keyword arguments of ``prepare``.

    Returns:
        The report, ``OUTPUT.dry_run.html``.

    Raises:
        FileNotFoundError, ValueError: as ``prepare`` does.
    """
    output = Path(output)
    report = output.with_name(f"{output.name}.dry_run.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(
            inputs,
            Path(folder) / output.name,
            tokenizer,
            **{**options, "limit": CELLS, "overwrite": False, "share": None},
        )
        assert store is not None
        shutil.copyfile(store.path / REPORT, report)
        log.info("Nothing was written but %s, of %d cells.", report, len(store))
    return report
