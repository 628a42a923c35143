"""Vocabulary, medians and names as the published tools read them, as tables, and as a tokenizer of words."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken
from tokenizers import Tokenizer as WordTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from scfm.genes import symbol_of
from scfm.tokenizer import Tokenizer
from scfm.vocab import Vocab

#: Roles of the special tokens before and after the genes of a cell.
Roles: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]

#: Protocol that Geneformer's own files have.
PROTOCOL = 4


def write_vocabulary(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the dictionaries of Geneformer's tools, each as a pickle of plain values and as a table.

    Medians are written for tokenizers that divide by them alone: the others rank the counts as they are.

    Args:
        tokenizer: with a vocabulary.
        folder: where the files go.
    """
    vocab = tokenizer.require_vocab()
    genes = [vocab.tokens[i] for i in vocab.gene_ids]
    symbols = {gene: symbol_of(gene) for gene in genes if gene.startswith("ENS")}
    identity = {gene.upper(): gene for gene in genes}
    spelled = {symbol.upper(): gene for gene, symbol in reversed(symbols.items()) if symbol}
    names = {symbol: gene for gene, symbol in reversed(symbols.items()) if symbol} or {gene: gene for gene in genes}
    tables: dict[str, tuple[tuple[str, str], Mapping[str, Any]]] = {
        "token_dictionary": (("token", "id"), {token: i for i, token in enumerate(vocab.tokens)}),
        "ensembl_mapping_dict": (("name", "gene"), {**(tokenizer.alias or spelled), **identity}),
        "gene_name_id_dict": (("symbol", "gene"), names),
    }
    medians = getattr(tokenizer, "medians", None)
    if medians is not None:
        values = {vocab.tokens[i]: float(medians[i]) for i in vocab.gene_ids}
        tables["gene_median_dictionary"] = (("gene", "median"), values)
    for name, (columns, table) in tables.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(dict(table), protocol=PROTOCOL))
        rows = (f"{key}\t{value!r}" if isinstance(value, float) else f"{key}\t{value}" for key, value in table.items())
        lines = ["\t".join(columns), *rows]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tokenizer(vocab: Vocab, roles: Roles, max_length: int, folder: Path) -> None:
    """Write ``tokenizer.json`` and its config: genes separated by white space, in order, become token ids.

    It does not rank: that needs counts. Without an ``unk`` token an unknown gene is an error.

    Args:
        vocab: the tokens.
        roles: special tokens before and after the genes of a cell.
        max_length: longest cell, special tokens included.
        folder: where the files go.
    """
    tokens = {role: vocab.tokens[i] for role, i in vocab.specials.items()}
    model = WordLevel(vocab=vocab.ids, unk_token=tokens["unk"]) if "unk" in tokens else WordLevel(vocab=vocab.ids)
    words = WordTokenizer(model)
    words.pre_tokenizer = WhitespaceSplit()
    before, after = ([tokens[role] for role in side] for side in roles)
    if before or after:
        words.post_processor = TemplateProcessing(
            single=[*before, "$A", *after], special_tokens=[(token, vocab.ids[token]) for token in (*before, *after)]
        )
    words.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(tokens.values())])
    words.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": token for role, token in tokens.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
