"""A hash of a cell's counts: finds the same cell in other files and in the pretraining corpus.

The hash is multilinear: ``h = mix(sum_g a_g * x_g mod 2**64)``, with an odd ``a_g`` drawn from the name of gene ``g``'s
token. It does not depend on the order of the columns, columns that were summed give the hash of their sum, and genes
outside the vocabulary do not take part. Two different cells share a hash with probability about 2**-63.
Multilinear hashing: Carter and Wegman, J. Comput. Syst. Sci. 18 (1979).
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix

from scfm.tokenizer.tally import tally
from scfm.vocab import Vocab


def gene_weights(columns: np.ndarray, tokens: Sequence[str]) -> np.ndarray:
    """(G,) uint64: the multiplier of each column, 0 where it has no token.

    Args:
        columns: (G,) token id of each column, -1 where it has none.
        tokens: the vocabulary's tokens.
    """
    return np.where(columns >= 0, _token_weights(tuple(tokens))[columns], np.uint64(0))


@lru_cache(maxsize=2)  # the files of a corpus have one vocabulary
def _token_weights(tokens: tuple[str, ...]) -> np.ndarray:
    """(V,) uint64: the multiplier of each token."""
    digests = b"".join(hashlib.blake2b(token.encode(), digest_size=8).digest() for token in tokens)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64) | np.uint64(1)


def cell_hashes(counts: csr_matrix, columns: np.ndarray, vocab: Vocab) -> np.ndarray:
    """(B,) uint64, the hash of each cell's counts; for ``TokenStore.overlap``.

    Args:
        counts: (B, G) counts.
        columns: (G,) token id of each column, -1 where it has none (``Tokenizer.harmonize(genes).columns``).
        vocab: the vocabulary.
    """
    whole = bool((counts.data == np.floor(counts.data)).all())
    return tally(counts, gene_weights(columns, vocab.tokens), whole=whole).hashes
