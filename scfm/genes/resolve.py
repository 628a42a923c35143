"""Gene names -> Ensembl ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Generic, Literal, TypeAlias, TypeVar

from scfm.genes.spelling import clean_names, symbols_of_date
from scfm.genes.table import loose, loose_retired, loose_symbols, orthologs, retired, table

#: ``human``: human names. ``mouse``: mouse names, onto their one-to-one human orthologs. ``other``: Ensembl ids of
#: any species, and all other names as they are, for a vocabulary fitted on that species.
Species: TypeAlias = Literal["human", "mouse", "other"]

#: An Ensembl gene id (ENSGR: copies on Y in old human releases), with or without a version, also joined to a symbol
#: by any sign (``RGS5_ENSG00000143248``, ``RGS5 (ENSG00000143248)``) or marked as a copy (``..._PAR_Y``).
ENSEMBL = re.compile(r"(?:.*[^A-Za-z0-9])?(ENS[A-Z]{0,6}GR?\d{10,11})(\.\d+)?([^A-Za-z0-9].*)?", re.IGNORECASE)

_IDS = re.compile(r"ENS[A-Z]{0,6}GR?\d{10,11}", re.IGNORECASE)

#: What anndata (-1) and R (.1) append to make repeated names unique.
MADE_UNIQUE = re.compile(r"(.+)[-.]\d+")


@lru_cache(maxsize=1 << 17)  # the files of a corpus share most names, and each is asked for several times
def ensembl_id(name: str) -> str | None:
    """The Ensembl gene id of a name, in upper case without version; None where it has none or several."""
    match = ENSEMBL.fullmatch(name)
    if match is None:
        return None
    one = match[1].upper()
    return one if all(other.upper() == one for other in _IDS.findall(name)) else None


def looks_like_mouse(names: Sequence[str]) -> bool:
    """Whether most names that a species' spelling tells apart (``Actb`` or ``ACTB``) are spelled as in mouse."""
    return _looks_like_mouse(tuple(names))


@lru_cache(maxsize=4)  # of one file it is asked several times
def _looks_like_mouse(names: tuple[str, ...]) -> bool:
    human, mouse = (own.intersection(names) for own in _own_spellings())
    return len(mouse) > len(human)


def foreign_names(names: Sequence[str]) -> frozenset[str]:
    """Names spelled as in mouse alone, where most are, or where some stand beside their human spelling.

    In upper case they would pass for human genes. A file with ``ACTB`` and ``Actb`` holds genes of both species.
    """
    return _foreign_names(tuple(names))


@lru_cache(maxsize=4)
def _foreign_names(names: tuple[str, ...]) -> frozenset[str]:
    mouse = _own_spellings()[1]
    present = set(names)
    both = any(name.upper() in present for name in mouse.intersection(present))
    return mouse if both or looks_like_mouse(names) else frozenset()


@cache
def _own_spellings() -> tuple[frozenset[str], frozenset[str]]:
    """Symbols that are spelled so in human alone, and in mouse alone."""
    human, mouse = table("human").spelled, table("mouse").spelled
    return human - mouse, mouse - human


@lru_cache(maxsize=1 << 17)
def _human(name: str) -> str | None:
    """The gene of a human name: by id, else by symbol, else by a symbol with other signs."""
    return ensembl_id(name) or table("human").by_symbol.get(name.upper()) or loose_symbols("human").get(loose(name))


def _human_among_mouse(name: str) -> str | None:
    """The same in a file with names of mice, which are not taken for human: orthologs have to be asked for."""
    return ensembl_id(name) if name in _own_spellings()[1] else _human(name)


@lru_cache(maxsize=1 << 17)
def retired_gene(name: str) -> str | None:
    """The human gene of a retired symbol or an alias, None where it is none or means several genes."""
    found = retired().by_name.get(name.upper()) or loose_retired().get(loose(name))
    return found or _gene_of_date(name)


def _gene_of_date(name: str) -> str | None:
    """The human gene of a symbol that a spreadsheet turned into a date; None where it may be several (``1-Mar``)."""
    found = {table("human").by_symbol.get(symbol) or retired().by_name.get(symbol) for symbol in symbols_of_date(name)}
    genes = found - {None}
    return genes.pop() if len(genes) == 1 else None


def _mouse(name: str) -> str | None:
    by_id, by_symbol = orthologs()
    ensembl = ensembl_id(name) or table("mouse").by_symbol.get(name.upper())
    ensembl = ensembl or loose_symbols("mouse").get(loose(name))
    if ensembl in by_id:
        return by_id[ensembl]
    return by_symbol.get(name.upper())


def _other(name: str) -> str | None:
    return ensembl_id(name) or name or None


def species_resolver(names: Sequence[str], species: Species) -> Callable[[str], str | None]:
    """The function that resolves one of these names, which are those of one file.

    Raises:
        ValueError: an unknown species.
    """
    if species == "human":
        return _human_among_mouse if foreign_names(names) else _human
    if species == "mouse":
        return _mouse
    if species == "other":
        return _other
    raise ValueError(
        f"species is {species!r}; expected human, mouse (onto human orthologs) or other (names as they are)"
    )


def make_resolver(
    names: Sequence[str], *, alias: Mapping[str, str] | None = None, species: Species = "human"
) -> Callable[[str], str | None]:
    """The function that :func:`resolve` asks for each of its ``names``, retired names aside."""
    return _with_repeats(_current(names, alias or {}, species), names)


def make_rescuer(names: Sequence[str], species: Species = "human") -> Callable[[str], str | None]:
    """The function that gives the gene of a retired name, of human names alone."""
    if species != "human" or looks_like_mouse(names):
        return lambda name: None
    foreign = foreign_names(names)
    return _with_repeats(lambda name: None if name in foreign else retired_gene(name), names)


def _current(names: Sequence[str], alias: Mapping[str, str], species: Species) -> Callable[[str], str | None]:
    """The function that resolves a name of today: by the user's alias, else as the species does."""
    own = species_resolver(names, species)
    human = species_resolver((), "human" if species == "mouse" else species)

    def resolve_one(name: str) -> str | None:
        """By the alias where there is one."""
        target = alias.get((ensembl_id(name) or name).upper()) if alias else None
        return human(target) if target is not None else own(name)

    return resolve_one


def _with_repeats(one: Callable[[str], str | None], names: Sequence[str]) -> Callable[[str], str | None]:
    """The same for names made unique: where a name has no gene, that of the name that it repeats."""
    present = set(names)

    def resolve_repeated(name: str) -> str | None:
        """By the name itself, else by the name it was made unique from."""
        gene = one(name)
        match = None if gene else MADE_UNIQUE.fullmatch(name)
        return one(match[1]) if match and match[1] in present else gene

    return resolve_repeated


T = TypeVar("T")


class Answers(Generic[T]):
    """What a function of one gene name gave: the files of a corpus share most names.

    The function may also look at whether the name that a name repeats (``ACTB`` of ``ACTB-1``) is in the same file;
    an answer that this may have changed is not kept.

    Args:
        largest: names to keep; they are all forgotten when there are more.
    """

    def __init__(self, largest: int = 1 << 19) -> None:
        self._largest = largest
        self._kept: dict[str, T] = {}
        self._repeated: dict[str, str] = {}

    def find(self, names: Sequence[str], function: Callable[[str], T]) -> list[T]:
        """``function(name)`` of the names of one file.

        Args:
            names: (G,) all names of the file.
            function: the same for every file.
        """
        if len(self._kept) > self._largest:
            self._kept, self._repeated = {}, {}
        kept, repeated = self._kept, self._repeated
        present = set(names)
        for name in present - kept.keys():
            numbered = ("-" in name or "." in name) and name[-1:].isdecimal()
            match = MADE_UNIQUE.fullmatch(name) if numbered else None
            if match:
                repeated[name] = match[1]
            if match is None or match[1] not in present:
                kept[name] = function(name)
        own = {name: function(name) for name in present & repeated.keys() if repeated[name] in present}
        return [own[name] if name in own else kept[name] for name in names] if own else [kept[name] for name in names]


#: What the answers about the names of a file depend on beside the name: whether most are of mice, whether some are.
Company: TypeAlias = tuple[bool, bool]


def company(names: Sequence[str]) -> Company:
    """See :data:`Company`."""
    return looks_like_mouse(names), bool(foreign_names(names))


@cache
def _answers(species: Species, beside: Company) -> Answers[str | None]:
    """The genes of names that :func:`resolve` found without an alias."""
    return Answers()


def resolve(
    names: Sequence[str], *, alias: Mapping[str, str] | None = None, species: Species = "human"
) -> list[str | None]:
    """Ensembl ids of gene names.

    In this order: the alias map; the name as an Ensembl id, its version stripped; the name as a symbol of the table,
    in any case (:data:`scfm.genes.table.PREFERRED_BIOTYPES` says which gene an ambiguous symbol means); the only symbol
    that differs by ``-``, ``.``, ``_`` or space (``HLA.A``); a name made unique by ``-1`` or ``.1``, where the name it
    repeats is there too, as that name; a previous symbol or alias of HGNC that means one gene. The prefix of a genome
    that nearly all names share, and quotes, are taken off before, see :func:`scfm.genes.spelling.clean_names`.

    Args:
        names: (G,) gene names of one file, symbols and Ensembl ids mixed as they come.
        alias: UPPER-CASE name -> Ensembl id or current symbol.
        species: see :data:`Species`.

    Returns:
        (G,) Ensembl ids without version, None where a name is unknown.

    Raises:
        ValueError: an unknown species.
    """
    names, _ = clean_names(names, alias or ())
    gene_of, rescue = make_resolver(names, alias=alias, species=species), make_rescuer(names, species)
    answers: Answers[str | None] = Answers() if alias else _answers(species, company(names))
    return answers.find(names, lambda name: gene_of(name) or rescue(name))
