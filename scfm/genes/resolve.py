"""Gene names -> Ensembl ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Literal, TypeAlias

from scfm.genes.table import orthologs, table

#: ``human``: human names. ``mouse``: mouse names, onto their one-to-one human orthologs. ``other``: Ensembl ids of
#: any species, and all other names as they are, for a vocabulary fitted on that species.
Species: TypeAlias = Literal["human", "mouse", "other"]

#: An Ensembl gene id (ENSGR: copies on Y in old human releases), with or without a version, also joined to a symbol
#: (``RGS5_ENSG00000143248``) or marked as a copy (``..._PAR_Y``).
ENSEMBL = re.compile(r"(?:.+[_|])?(ENS[A-Z]{0,6}GR?\d{10,11})(\.\d+)?([_|].+)?", re.IGNORECASE)

#: What anndata (-1) and R (.1) append to make repeated names unique.
MADE_UNIQUE = re.compile(r"(.+)[-.]\d+")


@lru_cache(maxsize=1 << 17)  # the files of a corpus share most names, and each is asked for several times
def ensembl_id(name: str) -> str | None:
    """The name as an Ensembl gene id in upper case without version, None where it is not one."""
    found = ENSEMBL.fullmatch(name)
    return found[1].upper() if found else None


def looks_like_mouse(names: Sequence[str]) -> bool:
    """Whether most names that a species' spelling tells apart (``Actb`` or ``ACTB``) are spelled as in mouse."""
    human, mouse = (own.intersection(names) for own in _own_spellings())
    return len(mouse) > len(human)


@cache
def _own_spellings() -> tuple[frozenset[str], frozenset[str]]:
    """Symbols that are spelled so in human alone, and in mouse alone."""
    human, mouse = table("human").spelled, table("mouse").spelled
    return human - mouse, mouse - human


def _human(names: Sequence[str]) -> Callable[[str], str | None]:
    genes = table("human")
    # Upper case would turn mouse symbols into human genes without a word; orthologs have to be asked for.
    foreign = _own_spellings()[1] if looks_like_mouse(names) else frozenset()

    def one(name: str) -> str | None:
        ensembl = ensembl_id(name)
        if ensembl is not None:
            return ensembl
        return None if name in foreign else genes.by_symbol.get(name.upper())

    return one


def _mouse(name: str) -> str | None:
    by_id, by_symbol = orthologs()
    ensembl = ensembl_id(name) or table("mouse").by_symbol.get(name.upper())
    if ensembl in by_id:
        return by_id[ensembl]
    return by_symbol.get(name.upper())


def _other(name: str) -> str | None:
    return ensembl_id(name) or name or None


def resolver(names: Sequence[str], species: Species) -> Callable[[str], str | None]:
    """The function that resolves one of these names, which are those of one file.

    Raises:
        ValueError: an unknown species.
    """
    if species == "human":
        return _human(names)
    if species == "mouse":
        return _mouse
    if species == "other":
        return _other
    raise ValueError(
        f"species is {species!r}; expected human, mouse (onto human orthologs) or other (names as they are)"
    )


def resolving(
    names: Sequence[str], *, alias: Mapping[str, str] | None = None, species: Species = "human"
) -> Callable[[str], str | None]:
    """The function that :func:`resolve` asks for each of its ``names``."""
    alias = alias or {}
    own = resolver(names, species)
    human = resolver((), "human" if species == "mouse" else species)
    present = set(names)

    def one(name: str) -> str | None:
        target = alias.get((ensembl_id(name) or name).upper()) if alias else None
        return human(target) if target is not None else own(name)

    def one_or_repeated(name: str) -> str | None:
        gene = one(name)
        found = None if gene else MADE_UNIQUE.fullmatch(name)
        return one(found[1]) if found and found[1] in present else gene

    return one_or_repeated


def resolve(
    names: Sequence[str], *, alias: Mapping[str, str] | None = None, species: Species = "human"
) -> list[str | None]:
    """Ensembl ids of gene names.

    In this order: the alias map; the name as an Ensembl id, its version stripped; the name as a symbol of the table,
    in any case (:data:`scfm.genes.table.PREFERRED_BIOTYPES` says which gene an ambiguous symbol means); a name made
    unique by ``-1`` or ``.1``, where the name it repeats is there too, as that name.

    Args:
        names: (G,) gene names of one file, symbols and Ensembl ids mixed as they come.
        alias: UPPER-CASE name -> Ensembl id or current symbol.
        species: see :data:`Species`.

    Returns:
        (G,) Ensembl ids without version, None where a name is unknown.

    Raises:
        ValueError: an unknown species.
    """
    return list(map(resolving(names, alias=alias, species=species), map(str.strip, names)))
