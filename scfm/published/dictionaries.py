"""The vocabulary of a published model: found beside its weights or named by the user, checked, as a tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from omegaconf import OmegaConf

from scfm.config import build
from scfm.published.architecture import Architecture
from scfm.published.weights import read_json
from scfm.tokenizer import Tokenizer, from_dict
from scfm.tokenizer.dictionary import read_tokens
from scfm.trust.allowed import CONFIGS
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

#: Folders in which published dictionaries lie, from a model's own folder and the two above it.
_PLACES = ("", "geneformer", "geneformer/gene_dictionaries_30m", "gene_dictionaries_30m")
TOKENS, MEDIANS, MAPPING = "token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict"
#: The token by which a vocabulary is known as one of a published scheme; the last fits any.
_SCHEMES = (("iseeek", "[CLS]"), ("tgpt", "</b>"), ("geneformer_v2", "<cls>"), ("geneformer_v1", "<pad>"))


class DictionaryOptions(TypedDict, total=False):
    """Arguments of :class:`Dictionaries`."""

    token_dictionary: str | None
    gene_median: str | None
    gene_mapping: str | None
    max_length: int | None
    labels: str | None


@dataclass(frozen=True)
class Dictionaries:
    """What a user says of a published model; None: as its folder says.

    Attributes:
        token_dictionary: published token dictionary (.pkl, .json), or ``tokenizer.json``.
        gene_median: published medians.
        gene_mapping: published map of gene names to Ensembl ids.
        max_length: tokens of a cell that the model was trained on.
        labels: the names of a classifier's classes: ``*_id_class_dict.pkl`` or ``task_label_mappings.pkl``.
    """

    token_dictionary: str | None = None
    gene_median: str | None = None
    gene_mapping: str | None = None
    max_length: int | None = None
    labels: str | None = None

    @classmethod
    def from_config(cls, tokenizer: Mapping[str, Any] | None, labels: str | None = None) -> Dictionaries:
        """The keys ``tokenizer.*`` and ``labels`` of a command's config, or of a stored one."""
        given = {**(tokenizer or {}), "labels": labels}
        return cls(**{field.name: given.get(field.name) for field in fields(cls)})


def read_tokenizer(
    folder: Path, architecture: Architecture, given: Dictionaries, fallback: Mapping[str, Any] | None = None
) -> Tokenizer:
    """The tokenizer of a published model.

    Args:
        folder: of the model.
        architecture: says how many tokens there are.
        given: by the user; goes first.
        fallback: state of a tokenizer that knows the vocabulary, where no dictionary is found: that of a store.

    Raises:
        FileNotFoundError: no dictionaries.
        ValueError: dictionaries of another size, or other ids of the special tokens.
    """
    files = _files(folder, architecture.vocab_size, given)
    if files is None:
        if fallback is None:
            raise FileNotFoundError(
                f"{folder} has no vocabulary: give tokenizer.token_dictionary, tokenizer.gene_median and "
                "tokenizer.gene_mapping (the published token_dictionary_*.pkl, gene_median_dictionary_*.pkl and "
                f"ensembl_mapping_dict_*.pkl for {architecture.vocab_size:,} tokens), or for iSEEEK and tGPT "
                "tokenizer.token_dictionary alone (tokenizer.json)"
            )
        tokenizer, source = from_dict(fallback), "the tokenizer of the store"
    else:
        tokenizer, source = _build(files, architecture, given, folder), files["token_dictionary"]
        log.info("Read the vocabulary of %s from %s.", folder, source)
    require_vocab(tokenizer.require_vocab(), architecture, source, str(folder))
    return tokenizer


def require_vocab(vocab: Vocab, architecture: Architecture, source: str, where: str) -> None:
    """Refuse a vocabulary that is not a model's.

    Raises:
        ValueError: it has another size, or other ids of special tokens.
    """
    if len(vocab) != architecture.vocab_size:
        raise ValueError(
            f"{source} has {len(vocab):,} tokens, but the model in {where} has {architecture.vocab_size:,}: they are "
            "not of the same release; give the dictionaries of this model"
        )
    for role, token_id in architecture.specials.items():
        if role == "pad" and token_id == 0 and 0 in vocab.specials.values():
            continue  # the default of transformers, which many configs keep; cells are never padded
        if vocab.specials.get(role, token_id) != token_id:
            raise ValueError(
                f"{source} gives the special token {role} id {vocab.specials[role]}, but {where}/config.json says "
                f"{token_id}: they are not of the same model; give the dictionaries of this model"
            )


def _files(folder: Path, vocab_size: int, given: Dictionaries) -> dict[str, str] | None:
    """Paths by the tokenizer's keys; those given go first, the others are looked for."""
    chosen = {key: getattr(given, key) for key in ("token_dictionary", "gene_median", "gene_mapping")}
    named = {key: path for key, path in chosen.items() if path is not None}
    if "token_dictionary" in named:
        return named
    sizes: dict[str, int] = {}
    for path in _candidates(folder):
        sizes[str(path)] = len(read_tokens(path))
        if sizes[str(path)] == vocab_size:
            return {"token_dictionary": str(path), **_companions(path), **named}
    if sizes and not any(Path(path).parent == folder for path in sizes):
        sizes = {}  # those of other models, which happen to lie nearby
    if sizes:
        found = ", ".join(f"{path} ({size:,})" for path, size in sizes.items())
        raise ValueError(
            f"the model in {folder} has {vocab_size:,} tokens, and no vocabulary beside it has as many: {found}; give "
            "tokenizer.token_dictionary of this model"
        )
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    """Vocabularies nearby, the nearest first."""
    home = folder.absolute()
    for base in (home, *home.parents[:2]):
        for place in _PLACES if base is not home.parents[-1] else ():
            yield from sorted((base / place).glob(f"{TOKENS}*.pkl"))
        if base == home and (base / "tokenizer.json").is_file():
            yield base / "tokenizer.json"


def _companions(path: Path) -> dict[str, str]:
    """Medians and mapping of the same release: the same folder and end of the name."""
    release = path.name.removeprefix(TOKENS)
    pairs = {"gene_median": path.with_name(MEDIANS + release), "gene_mapping": path.with_name(MAPPING + release)}
    return {key: str(file) for key, file in pairs.items() if file.is_file()}


def _build(files: Mapping[str, str], architecture: Architecture, given: Dictionaries, folder: Path) -> Tokenizer:
    tokens = read_tokens(files["token_dictionary"])
    scheme = next((name for name, mark in _SCHEMES if mark in tokens), None)
    if scheme is None:
        raise ValueError(f"{files['token_dictionary']} has none of the special tokens {_marks()}; expected one of them")
    node: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONFIGS / "tokenizer" / f"{scheme}.yaml"))  # type: ignore[assignment]
    if "gene_median" in node and "gene_median" not in files:
        raise FileNotFoundError(
            f"{files['token_dictionary']} has no {MEDIANS}{Path(files['token_dictionary']).name.removeprefix(TOKENS)} "
            "beside it: give tokenizer.gene_median, the medians of the same release"
        )
    specials = {role: token for role, token in node["specials"].items() if token in tokens}
    known = {key: path for key, path in files.items() if key in node}
    length = given.max_length or _trained_length(folder, architecture, node["max_length"])
    cut = {"max_length": min(length, architecture.sizes["positions"])}
    return build({**node, **known, **cut, "specials": specials})


def _marks() -> str:
    return ", ".join(mark for _, mark in _SCHEMES)


def _trained_length(folder: Path, architecture: Architecture, usual: int) -> int:
    """Tokens of a cell: as an export of scfm says, as the tokenizer says, or as is usual for the scheme."""
    said: Iterable[Any] = (architecture.config.get("scfm_max_length"), _tokenizer_length(folder))
    return next(
        (length for length in said if type(length) is int and 0 < length <= architecture.sizes["positions"]), usual
    )


def _tokenizer_length(folder: Path) -> Any:
    path = folder / "tokenizer_config.json"
    return read_json(path).get("model_max_length") if path.is_file() else None
