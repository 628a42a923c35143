"""Gene names of any kind, onto one vocabulary: Ensembl ids or symbols, human or mouse.

Everything here is pure bookkeeping over names; no counts matrix is touched.
"""

from scfm.genes.alias import read_alias
from scfm.genes.gene_map import GeneMap, Harmonizer, harmonize, limit_alias, symbol_token
from scfm.genes.report import GeneReport
from scfm.genes.resolve import resolve
from scfm.genes.table import biotype_of, symbol_of

__all__ = [
    "GeneMap",
    "GeneReport",
    "Harmonizer",
    "biotype_of",
    "harmonize",
    "limit_alias",
    "read_alias",
    "resolve",
    "symbol_of",
    "symbol_token",
]
