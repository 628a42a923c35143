"""Gene names as other tools write them, cleaned of genome prefixes, quotes and byte literals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from scfm.genes.table import loose, loose_symbols, table

#: A name written as bytes or in quotes: ``b'ACTB'``, ``"ACTB"``.
_QUOTED = re.compile(r"""b?(['"])(.+)\1""")
_QUOTES = ("'", '"')

#: Hyphens that text processors write for ``-``, and signs without width, which are no part of a name.
_TYPOGRAPHY = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", "")
)

#: Where the prefix of a genome may end: ``GRCh38_``, ``GRCh38premrna-``, ``hg19___``.
_END = re.compile(r"[_\-:|.]+(?=[^_\-:|.])")

#: Names, evenly spread, that are looked at.
SAMPLE = 1000

#: Fewer names share a prefix by chance.
FEWEST = 3

#: A prefix is removed where this share of the names have it, and half of those are known genes without it.
SHARE = 0.9

#: Symbols that spreadsheets turn into dates (Ziemann et al. 2016, https://doi.org/10.1186/s13059-016-1044-7): how the
#: month is written, and what stood before the number.
MONTHS = {"MAR": ("MARCH", "MARC"), "SEP": ("SEPT",), "DEC": ("DEC",), "OCT": ("OCT",), "APR": ("APR",)}

_DATE = re.compile(r"(?:(\d{1,2})-([A-Z]{3})|([A-Z]{3})-(\d{1,2}))", re.IGNORECASE)

_ENSEMBL_ID = re.compile(r"ENS[A-Z]{0,6}GR?\d{10,11}(\.\d+)?", re.IGNORECASE)


def clean_names(names: Sequence[str], keep: Collection[str] = ()) -> tuple[list[str], str]:
    """Names with plain hyphens, without quotes and without the prefix that nearly all of them share.

    A prefix is removed only where most names are known genes (Ensembl ids, human or mouse symbols) without it and
    not with it: ``HLA-`` stays.

    Args:
        names: (G,) gene names of one file.
        keep: names, in upper case, that stay as they are.

    Returns:
        (G,) names, and the prefix, "" where there is none.
    """
    typed = [name if name.isascii() else name.translate(_TYPOGRAPHY) for name in names]
    plain = [name if name[-1:] not in _QUOTES else _strip_quotes(name) for name in map(str.strip, typed)]
    prefix = shared_prefix(plain)
    short = [name.removeprefix(prefix) or name for name in plain] if prefix else plain
    return [old if old != new and old.upper() in keep else new for old, new in zip(names, short, strict=True)], prefix


def shared_prefix(names: Sequence[str]) -> str:
    """The prefix of a genome that nearly all names share, "" where there is none."""
    some = names[:: -(-len(names) // SAMPLE)] if len(names) >= FEWEST else []
    counted = _prefixes(some)
    for prefix in sorted(counted, key=len, reverse=True):
        if counted[prefix] < SHARE * len(some):
            continue
        with_it = [name for name in some if name.startswith(prefix)]
        known = sum(is_known(name) for name in with_it)
        without = sum(is_known(name.removeprefix(prefix)) for name in with_it)
        if without > known and without * 2 > len(with_it):
            return prefix
    return ""


def several_prefixes(names: Sequence[str]) -> list[str]:
    """The prefixes of several genomes that share the names among them, most frequent first; else nothing."""
    some = names[:: -(-len(names) // SAMPLE)] if names else []
    genomes: dict[str, int] = {}
    for prefix, n in _prefixes(some).most_common():
        if n * 10 <= len(some):
            break
        known = sum(is_known(name.removeprefix(prefix)) for name in some if name.startswith(prefix))
        if known * 2 > n:
            genomes[prefix] = n
    return list(genomes) if len(genomes) > 1 and sum(genomes.values()) > SHARE * len(some) else []


def is_known(name: str) -> bool:
    """Whether a name is an Ensembl id or a symbol of human or mouse."""
    if _ENSEMBL_ID.fullmatch(name):
        return True
    upper, signs = name.upper(), loose(name)
    return any(upper in table(kind).by_symbol or signs in loose_symbols(kind) for kind in ("human", "mouse"))


def symbols_of_date(name: str) -> list[str]:
    """The symbols that a spreadsheet may have turned into this date: ``2-Sep`` and ``Sep-02`` were ``SEPT2``."""
    match = _DATE.fullmatch(name)
    if match is None:
        return []
    number, month = match[1] or match[4], (match[2] or match[3]).upper()
    return [f"{stem}{int(number)}" for stem in MONTHS.get(month, ())]


def _prefixes(names: Sequence[str]) -> Counter[str]:
    return Counter(name[: end.end()] for name in names for end in _END.finditer(name))


def _strip_quotes(name: str) -> str:
    match = _QUOTED.fullmatch(name)
    return match[2] if match else name
