"""Which cells are kept: thresholds, flags of published atlases, and any expression over obs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scfm.genes import resolve, symbol_of
from scfm.tokenizer.tally import Tally


@dataclass(frozen=True)
class Quality:
    """Cells that fail a rule are dropped and counted under its name.

    Attributes:
        min_genes: genes with counts, at least.
        min_counts: counts of all genes, at least.
        max_mito: share of counts in mitochondrial genes (``MT-*``), at most.
        filter_pass: keep cells whose obs column ``filter_pass`` is 1, as Geneformer's corpora have it.
        is_primary_data: keep cells whose obs column ``is_primary_data`` is true, as CELLxGENE has it.
        expression: keep cells for which this is true, as ``pandas.DataFrame.query`` reads it:
            ``tissue == 'lung' and age < 60``.

    Raises:
        ValueError: a share outside 0 to 1, or an expression that names more than obs columns.
    """

    min_genes: int | None = None
    min_counts: float | None = None
    max_mito: float | None = None
    filter_pass: bool = False
    is_primary_data: bool = False
    expression: str | None = None

    def __post_init__(self) -> None:
        if self.max_mito is not None and not 0 <= self.max_mito <= 1:
            raise ValueError(f"quality.max_mito={self.max_mito} is a share of counts, from 0 to 1")
        if self.expression is not None and ("@" in self.expression or "__" in self.expression):
            raise ValueError(f"quality.expression={self.expression!r}: only obs columns can be named, no @ and no __")

    def columns(self, have: Sequence[str], where: str) -> list[str]:
        """The obs columns that the rules read.

        Raises:
            ValueError: a flag that the file lacks.
        """
        flags = [name for name in ("filter_pass", "is_primary_data") if getattr(self, name)]
        for flag in flags:
            if flag not in have:
                raise ValueError(
                    f"{where}: quality.{flag}=true needs the obs column {flag!r}; it has {', '.join(have) or 'none'}"
                )
        words = set(re.findall(r"`[^`]*`|\w+", self.expression or ""))
        named = [name for name in have if name in words or f"`{name}`" in words]
        return list(dict.fromkeys([*flags, *named]))

    def find_failures(
        self, obs: pd.DataFrame, tally: Tally, mito: np.ndarray | None, where: str
    ) -> dict[str, np.ndarray]:
        """Which cells fail which rule.

        Args:
            obs: B rows with the columns of :meth:`columns`.
            tally: sums of the B cells.
            mito: (B,) counts in mitochondrial genes; None where no rule needs them.
            where: the file, for messages.

        Returns:
            {rule: (B,) bool}.

        Raises:
            ValueError: an expression that cannot be evaluated.
        """
        failures: dict[str, np.ndarray] = {}
        if self.min_genes is not None:
            failures["min_genes"] = tally.n_genes < self.min_genes
        if self.min_counts is not None:
            failures["min_counts"] = tally.totals < self.min_counts
        if mito is not None and self.max_mito is not None:
            failures["max_mito"] = mito > self.max_mito * tally.totals
        for flag in ("filter_pass", "is_primary_data"):
            if getattr(self, flag):
                failures[flag] = ~obs[flag].astype(str).str.lower().isin(["1", "1.0", "true"]).to_numpy()
        if self.expression is not None:
            failures["expression"] = ~self._query(obs, where)
        return failures

    def _query(self, obs: pd.DataFrame, where: str) -> np.ndarray:
        try:
            passes = obs.eval(self.expression, engine="python")
        except Exception as error:  # the expression is the user's and can raise anything
            have = ", ".join(map(str, obs.columns)) or "none of the obs columns"
            raise ValueError(
                f"{where}: quality.expression={self.expression!r} cannot be evaluated ({error}); it names {have}"
            ) from error
        passes = np.asarray(passes)
        if passes.shape != (len(obs),) or passes.dtype.kind != "b":
            raise ValueError(f"{where}: quality.expression={self.expression!r} is not true or false for each cell")
        return passes


def mitochondrial(names: Sequence[str], species: str) -> np.ndarray:
    """(G,) bool: genes of the mitochondrial genome, by symbol or by Ensembl id."""
    ids = resolve(list(names), species="other" if species == "other" else "human")
    symbols = [(symbol_of(gene) if gene else "") or name for name, gene in zip(names, ids, strict=True)]
    return np.array([symbol.upper().startswith("MT-") for symbol in symbols], dtype=bool)
