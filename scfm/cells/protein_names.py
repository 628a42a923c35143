"""Names of surface proteins: one name for one protein, whatever its panel calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

#: What vendors add to a name: ``CD3_TotalSeqB``, ``CD3-TotalSeqC0034``, ``anti-human CD3``, ``CD3 (Hu)``.
_VENDOR = (
    re.compile(r"[\s_.\-]*total[\s_.\-]?seq[\s_.\-]*[abcd]?\d*$", re.IGNORECASE),
    re.compile(r"^anti[\s_.\-]+(?:(?:human|mouse|rat|hu|ms)(?:/(?:human|mouse|rat))*[\s_.\-]+)?", re.IGNORECASE),
    re.compile(r"^(?:adt|prot|ab)[_.]", re.IGNORECASE),
    re.compile(r"[\s_.\-]+(?:adt|prot|antibody)$", re.IGNORECASE),
)
#: ``IL7Ralpha (CD127)``, ``MHCII (HLA-DR)``, ``CD4 (RPA-T4)``: a name, and another one or a clone.
_BRACKETS = re.compile(r"^(.+?)\s*\((.+)\)$")
#: A name that every panel has alike.
_SYSTEMATIC = re.compile(r"^(?:CD\d+[a-z]{0,2}|HLA-[A-Z0-9/\-]+)$", re.IGNORECASE)
#: ``IgG1``, ``Mouse IgG2b isotype``, ``isotype_control``.
_ISOTYPE = re.compile(r"isotype|(?:^|[\s_.\-])ig[gm]\d?[abc]?(?:$|[\s_.\-])", re.IGNORECASE)


def protein_name(name: str, alias: Mapping[str, str] | None = None) -> str:
    """The name of a protein without what its vendor adds.

    Args:
        name: as the panel has it.
        alias: UPPER-CASE name -> name to use; it is asked first, by the name as it stands and by the bare one.

    Example:
        >>> [protein_name(name) for name in ("CD3_TotalSeqB", "anti-human CD4", "IL7Ralpha (CD127)", "cd8a", "PD-1")]
        ['CD3', 'CD4', 'CD127', 'CD8a', 'PD-1']
    """
    alias = alias or {}
    if name.strip().upper() in alias:
        return alias[name.strip().upper()]
    bare = name.strip()
    for pattern in _VENDOR:
        bare = pattern.sub("", bare) or bare
    inside = _BRACKETS.match(bare)
    if inside:
        first, second = (part.strip() for part in inside.groups())
        bare = next((part for part in (first, second) if _SYSTEMATIC.match(part)), bare)
    if _SYSTEMATIC.match(bare):
        bare = f"CD{bare[2:]}" if bare[:2].lower() == "cd" else bare.upper()
    return alias.get(bare.upper(), bare)


def protein_names(names: Sequence[str], alias: Mapping[str, str] | None = None) -> list[str]:
    """The names of a panel, see :func:`protein_name`.

    Raises:
        ValueError: two columns are of one protein.
    """
    first: dict[str, str] = {}
    for name in names:
        found = protein_name(name, alias)
        if found in first:
            raise ValueError(
                f"has two columns of the protein {found!r}: {first[found]!r} and {name!r}; remove one of them, or give "
                "each a name of its own in a table (side.alias=TSV)"
            )
        first[found] = name
    return list(first)


def is_isotype(name: str) -> bool:
    """Whether a column is an isotype control, which binds nothing.

    Example:
        >>> [is_isotype(name) for name in ("IgG1", "Mouse IgG2b isotype", "CD16", "IgD", "rIgG")]
        [True, True, False, False, False]
    """
    return _ISOTYPE.search(name) is not None
