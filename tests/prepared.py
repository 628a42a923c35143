"""Tokenizers for tests of preparing, and what a store holds as plain lists."""

import numpy as np

from scfm.tokenizer import MedianTokenizer, RankTokenizer

SPECIALS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}


def median_tokenizer(**options):
    return MedianTokenizer(name="geneformer_v2", max_length=64, specials=SPECIALS, **options)


def rank_tokenizer(**options):
    return RankTokenizer(name="ranks", max_length=32, specials=SPECIALS, **options)


def lists(store):
    got = store.gather(np.arange(len(store)))
    return [got[i].tolist() for i in range(len(got))]
