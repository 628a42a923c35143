"""iSEEEK and tGPT: genes ranked by their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from scfm.genes import symbol_of, symbol_token
from scfm.tokenizer.base import Tokenizer
from scfm.tokenizer.statistics import GeneStatistics
from scfm.types import Ragged


@dataclass(frozen=True, eq=False)
class RankTokenizer(Tokenizer):
    """Ranks by the count itself; genes are symbols with ``-`` and ``.`` as ``_``.

    iSEEEK (Shen et al., Briefings in Bioinformatics 2022) and tGPT (Shen et al., iScience 2023). A positive scale of a
    cell, or a logarithm, does not change the order.
    """

    kind: ClassVar[str] = "rank"
    needs_counts: ClassVar[bool] = False

    def fit(self, statistics: GeneStatistics) -> Self:
        """The genes by number of cells that have them, then counts, descending, then by ascending Ensembl id.

        Genes of one symbol share a token; a gene without a symbol is its Ensembl id.

        Raises:
            ValueError: it is fitted already, or no gene is left for the vocabulary.
        """
        kept = np.flatnonzero(self._select_genes(statistics))
        ids = np.array(statistics.genes)[kept]
        order = kept[np.lexsort((ids, -statistics.counts[kept], -statistics.n_cells[kept]))]
        symbols = (symbol_token(symbol_of(statistics.genes[i]) or statistics.genes[i]) for i in order)
        return replace(self, vocab=self._make_vocab(tuple(dict.fromkeys(symbols))), growing=False)

    def fit_text(self, lines: Iterable[str]) -> Self:
        """The same from lists of symbols, one cell a line: by number of cells descending, then by symbol.

        Raises:
            ValueError: it is fitted already, or there is no symbol.
        """
        cells: Counter[str] = Counter()
        for line in lines:
            cells.update({symbol_token(symbol) for symbol in line.split()})
        if self.vocab is not None or not cells:
            raise ValueError(
                f"the tokenizer {self.name} has a vocabulary already, or the lines have no symbols to fit one"
            )
        kept = [symbol for symbol, n in cells.items() if n >= self.min_cells]
        return replace(self, vocab=self._make_vocab(sorted(kept, key=lambda symbol: (-cells[symbol], symbol))))

    def encode_text(self, lines: Iterable[str]) -> Ragged:
        """Token ids of the published kind of corpus: one cell a line, symbols separated by spaces, highest first.

        Blank lines are skipped; a symbol that is not in the vocabulary is left out, a repeated one is read once. The
        lists are taken as they are: ``drop_genes`` is about counts.

        Args:
            lines: some lines of the corpus (:func:`read_lines` gives a large file in blocks).

        Returns:
            uint16 ids with special tokens, one row for each line that is not blank.
        """
        ids = self.require_vocab().ids
        genes = set(self.require_vocab().gene_ids.tolist())
        prefix, suffix = (ends.tolist() for ends in self._frame())
        rows = []
        for line in filter(None, map(str.split, lines)):
            known = dict.fromkeys(ids.get(symbol_token(symbol), -1) for symbol in line)
            row = list(islice((token for token in known if token in genes), self.genes_per_cell))
            rows.append([*prefix, *row, *suffix] if row else [])
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        values = np.fromiter((token for row in rows for token in row), dtype=np.uint16, count=int(lengths.sum()))
        return Ragged(values, np.concatenate([[0], lengths.cumsum()]).astype(np.int64))


def read_lines(path: str | Path, size: int = 1024) -> Iterator[list[str]]:
    """Lines of a text corpus in blocks, so that a large file is never held at once.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no text corpus {path}; expected one cell a line, symbols separated by spaces"
        )
    with path.open() as lines:
        while block := list(islice(lines, size)):
            yield block
