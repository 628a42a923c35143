"""The gene tables that come with the package (made by ``scripts/make_gene_tables.py``)."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

#: Where one symbol names several genes, the first biotype found here wins, then the oldest (smallest) Ensembl id:
#: the gene people mean, and of a gene on both sex chromosomes the copy on X.
PREFERRED_BIOTYPES = ("protein_coding", "miRNA", "lncRNA")


_SIGNS = re.compile(r"[-._ ]")


@dataclass(frozen=True)
class Table:
    """The genes of one species.

    Attributes:
        symbols: symbol by Ensembl id, "" where there is none.
        biotypes: GENCODE biotype by Ensembl id.
        by_symbol: Ensembl id by upper-case symbol.
        namesakes: the other genes of an ambiguous symbol by the Ensembl id in ``by_symbol``, best first.
        spelled: the symbols as they are written in this species.
    """

    symbols: dict[str, str]
    biotypes: dict[str, str]
    by_symbol: dict[str, str]
    namesakes: dict[str, list[str]]
    spelled: frozenset[str]


@dataclass(frozen=True)
class Retired:
    """Names that human genes had before, and other names for them (HGNC).

    Attributes:
        by_name: Ensembl id by upper-case name.
        source: where they are from, of which day, and how many ambiguous ones were left out.
    """

    by_name: dict[str, str]
    source: str


def _lines(name: str) -> list[str]:
    packed = files("scfm.genes").joinpath("tables", f"{name}.tsv.gz").read_bytes()
    return gzip.decompress(packed).decode().splitlines()


def _rows(name: str) -> list[list[str]]:
    return [line.split("\t") for line in _lines(name)]


def _preference(ensembl: str, biotype: str) -> tuple[int, str]:
    known = biotype in PREFERRED_BIOTYPES
    return PREFERRED_BIOTYPES.index(biotype) if known else len(PREFERRED_BIOTYPES), ensembl


@cache
def table(species: str) -> Table:
    """The genes of ``human`` (GENCODE v48) or ``mouse`` (GENCODE vM37)."""
    rows = _rows(species)
    by_symbol: dict[str, str] = {}
    namesakes: dict[str, list[str]] = {}
    for ensembl, symbol, _ in sorted(rows, key=lambda row: _preference(row[0], row[2])):
        if symbol and by_symbol.setdefault(symbol.upper(), ensembl) != ensembl:
            namesakes.setdefault(by_symbol[symbol.upper()], []).append(ensembl)
    return Table(
        symbols={ensembl: symbol for ensembl, symbol, _ in rows},
        biotypes={ensembl: biotype for ensembl, _, biotype in rows},
        by_symbol=by_symbol,
        namesakes=namesakes,
        spelled=frozenset(symbol for _, symbol, _ in rows if symbol),
    )


@cache
def orthologs() -> tuple[dict[str, str], dict[str, str]]:
    """Human Ensembl id of mouse genes with exactly one ortholog: by mouse Ensembl id, and by upper-case symbol."""
    rows = _rows("mouse_to_human")
    return {mouse: human for mouse, _, human in rows}, {symbol.upper(): human for _, symbol, human in rows if symbol}


@cache
def retired() -> Retired:
    """Previous symbols and aliases of human genes that mean one gene and are no current symbol of another."""
    source, *rows = _lines("retired")
    names = (row.split("\t") for row in rows)
    return Retired({name: ensembl for name, ensembl, _ in names}, source.removeprefix("# "))


def loose(name: str) -> str:
    """A name in upper case with one sign for ``-``, ``.``, ``_`` and space, which tools write for each other."""
    return _SIGNS.sub("-", name.upper())


def by_loose_name(names: Mapping[str, str]) -> dict[str, str]:
    """What names mean, by :func:`loose` name where it is that of one meaning alone."""
    found: dict[str, str] = {}
    several: set[str] = set()
    for name, meaning in names.items():
        if _SIGNS.search(name) and found.setdefault(loose(name), meaning) != meaning:
            several.add(loose(name))
    return {name: meaning for name, meaning in found.items() if name not in several}


@cache
def loose_symbols(species: str) -> dict[str, str]:
    """Ensembl id by :func:`loose` symbol of ``human`` or ``mouse``."""
    return by_loose_name(table(species).by_symbol)


@cache
def loose_retired() -> dict[str, str]:
    """Ensembl id by :func:`loose` retired name."""
    return by_loose_name(retired().by_name)


@cache
def tokens_of_symbols() -> dict[str, str]:
    """Ensembl id of human genes by upper-case symbol with ``-`` and ``.`` as ``_``, as iSEEEK and tGPT write them."""
    by_symbol = table("human").by_symbol
    return {symbol.replace("-", "_").replace(".", "_"): ensembl for symbol, ensembl in reversed(by_symbol.items())}


def symbol_of(ensembl: str) -> str:
    """The symbol of a human or mouse gene, "" where it has none or is unknown."""
    return table("mouse" if ensembl.startswith("ENSMUS") else "human").symbols.get(ensembl, "")


def biotype_of(ensembl: str) -> str:
    """The biotype of a human or mouse gene (``protein_coding``, ``miRNA``, ...), "" where it is unknown."""
    return table("mouse" if ensembl.startswith("ENSMUS") else "human").biotypes.get(ensembl, "")
