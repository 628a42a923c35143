"""Which features of a matrix are genes, where it also has proteins, guides, peaks or control probes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd

from scfm.genes.table import table

log = logging.getLogger(__name__)

#: Columns of var that hold the kind of a feature, without case and separators.
COLUMNS = ("featuretypes", "featuretype")

#: Columns that may hold it: they are used where they name genes and others by known words.
POSSIBLE_COLUMNS = ("modality", "modalities", "featurebiotype", "featureclass")

#: Kinds that a message lists.
LISTED = 8

_GENE_WORDS = """
gene genes geneexpression gex rna mrna expression transcript transcripts transcriptome wta targetedrna
"""
_OTHER_WORDS = """
antibody antibodies antibodycapture antibodyderivedtag antibodyderivedtags ab abs adt adts protein proteins
proteinexpression surfaceprotein cite citeseq abseq totalseq isotype isotypecontrol
crispr crisprguidecapture crisprguide guide guides guiderna grna grnas sgrna sgrnas guidecapture
hto htos hashtag hashtags hashtagoligo hashing cellhashing multiplexing multiplexingcapture cmo lmo sampletag
custom featurebarcode featurebarcoding peak peaks atac atacpeak atacpeaks chromatin chromatinaccessibility
genomicregion vdj vdjt vdjb vdjtgd tcr bcr antigen antigencapture spikein spikeins ercc erccs
negativecontrol negativecontrolprobe negativecontrolcodeword unassignedcodeword deprecatedcodeword
blankcodeword genomiccontrol controlprobe blank negprb falsecode systemcontrol
"""

#: Words for genes, without case and separators; the biotypes of GENCODE are added.
GENES = frozenset(_GENE_WORDS.split())

#: Words for features that are no genes.
OTHERS = frozenset(_OTHER_WORDS.split())


def gene_mask(var: pd.DataFrame, wanted: str = "rna") -> np.ndarray | None:
    """(G,) bool: which features are genes; None where all are, or where var has no such column.

    Args:
        var: (G rows) the genes' table.
        wanted: a kind of var that is taken for genes (``mod=GEX``).

    Raises:
        ValueError: no feature is a gene, or several kinds of which none is a known word for genes.
    """
    columns = {feature_word(name): name for name in var.columns}
    for key in (*COLUMNS, *POSSIBLE_COLUMNS):
        if key in columns:
            return _mask(var, str(columns[key]), wanted, certain=key in COLUMNS)
    return None


def _mask(var: pd.DataFrame, column: str, wanted: str, *, certain: bool) -> np.ndarray | None:
    kinds = var[column].astype(object).where(var[column].notna(), "").map(str).to_numpy(dtype=object)
    numbers = Counter(kinds.tolist())
    word_of = {kind: feature_word(kind) for kind in numbers}
    words = np.array([word_of[kind] for kind in kinds], dtype=object)
    if feature_word(wanted) != "rna" and feature_word(wanted) in words:
        return words == feature_word(wanted)
    genes = np.isin(words, [word for word in word_of.values() if is_gene_word(word)])
    others = np.isin(words, [word for word in word_of.values() if is_other_word(word)])
    if genes.any():
        taken = genes if others.any() else genes | (words == "")
        if not certain and not others.any():
            return None
        return _report_mask(taken, column, numbers)
    known = {kind for kind in numbers if feature_word(kind)}
    named = feature_word(wanted) != "rna"  # a modality that the user names may hold anything
    if not certain or (len(known) < 2 and (named or not others.any())):
        return None
    raise ValueError(_refusal(column, numbers, only_others=all(is_other_word(feature_word(kind)) for kind in known)))


def _report_mask(taken: np.ndarray, column: str, numbers: Mapping[str, int]) -> np.ndarray | None:
    if taken.all():
        return None
    others = ", ".join(
        f"{n:,} {kind or 'without a kind'}" for kind, n in numbers.items() if not is_gene_word(feature_word(kind))
    )
    log.info("%d features are genes by var[%r]; the others are left out (%s)", taken.sum(), column, others)
    return taken


def _refusal(column: str, numbers: Mapping[str, int], *, only_others: bool) -> str:
    listed = ", ".join(f"{kind!r} ({n:,} features)" for kind, n in list(numbers.items())[:LISTED])
    listed += f" and {len(numbers) - LISTED:,} more" if len(numbers) > LISTED else ""
    if only_others:
        return f"has no genes: var[{column!r}] has the kinds {listed}; give the file that has the genes"
    example = max(numbers, key=lambda kind: numbers[kind] if kind and not is_other_word(feature_word(kind)) else -1)
    return (
        f"has features of several kinds and none is known to be genes: var[{column!r}] has {listed}. Name the kind of "
        f"the genes (mod={example!r}), or call it 'Gene Expression' in the file"
    )


def is_gene_word(word: str) -> bool:
    """Whether a kind, as :func:`feature_word` writes it, means genes: of :data:`GENES` or a biotype of GENCODE."""
    if is_other_word(word):
        return False
    one = word.removesuffix("s")
    known = not GENES.isdisjoint((word, one)) or not _biotypes().isdisjoint((word, one))
    return known or one.endswith(("pseudogene", "rna", "vgene", "cgene", "jgene"))


def is_other_word(word: str) -> bool:
    """Whether a kind, as :func:`feature_word` writes it, means features that are no genes, one or several of them."""
    return not OTHERS.isdisjoint((word, word.removesuffix("s")))


@cache
def _biotypes() -> frozenset[str]:
    return frozenset(map(feature_word, table("human").biotypes.values())) | {
        "processedtranscript",
        "antisense",
        "ncrna",
    }


def feature_word(kind: object) -> str:
    """A kind of feature without case and separators: ``Antibody Capture`` is ``antibodycapture``."""
    return re.sub(r"[\W_]+", "", str(kind)).lower()
