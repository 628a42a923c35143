"""``scfm-prepare``: single-cell files to a token store."""

import logging
import sys
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scfm.closing import closing_block, command_line
from scfm.config import build
from scfm.preparation.advice import advice_text, advise
from scfm.preparation.api import append, check_sample, prepare
from scfm.preparation.options import resolve_inputs
from scfm.store.layout import REPORT
from scfm.store.token_store import TokenStore
from scfm.store.verify import verify as check
from scfm.tokenizer import Tokenizer, from_dict

log = logging.getLogger(__name__)

#: Keys that become objects; the rest are passed to :func:`scfm.preparation.api.prepare` as they are.
_OBJECTS = ("quality", "genes", "side", "executor")
_BUILT = ("tokenizer", "init_from", "vocab", "input", "extensions", *_OBJECTS, "append", "dry_run")


def run(cfg: DictConfig) -> None:
    """Prepare ``cfg.input`` into the store ``cfg.output``; add to it, or check a sample, where the config says so."""
    built = {name: build(cfg[name]) for name in _OBJECTS}
    if cfg.append:
        if cfg.share is not None:
            raise ValueError(f"share={cfg.share} with append=true: files are added by one run; leave share out")
        working = {key: cfg[key] for key in ("workers", "block_size", "on_error")}
        _report_store(append(_plain(cfg.input), cfg.output, executor=built["executor"], **working))
        return
    options: dict[str, Any] = {
        str(key): OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        for key, value in cfg.items()
        if key not in _BUILT
    }
    if cfg.dry_run:
        _check(cfg, options | built)
        return
    _report_store(prepare(_plain(cfg.input), tokenizer=make_tokenizer(cfg), **options, **built), cfg.init_from)


def _check(cfg: DictConfig, options: dict[str, Any]) -> None:
    """A dry run: all checks, the report, and which keys the first file asks for."""
    tokenizer = make_tokenizer(cfg)
    report = check_sample(_plain(cfg.input), tokenizer=tokenizer, **options)
    first = resolve_inputs(_plain(cfg.input))[0]["path"]
    reading = {name: cfg[name] for name in ("layer", "gene_column", "counts", "mod")}
    choices = advise(first, max_length=tokenizer.max_length, tokenizer=tokenizer.name, **reading)
    log.info("\n%s", advice_text(choices))
    given = {"input": cfg.input, "output": cfg.output, "init_from": cfg.init_from}
    advised = dict(word.split("=", 1) for choice in choices for word in choice.keys)
    if cfg.init_from is not None:
        advised.pop("tokenizer", None)  # the model brings it
    keys = advised | {name: _word(cfg[name]) for name in ("obs", "group") if cfg[name]}
    named = {name: _word(value) for name, value in given.items() if value is not None}
    log.info("%s", closing_block(["No store was written."], [report], command_line("prepare", **named, **keys)))


def _word(value: Any) -> str:
    value = _plain(value)
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def verify(arguments: list[str]) -> None:
    """``scfm-prepare verify STORE...``: exit status 1 when a store is not as it was written."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not arguments:
        raise ValueError("which store? scfm-prepare verify STORE")
    problems = [check(path) for path in arguments]
    if any(problems):
        sys.exit(1)


def _report_store(store: TokenStore | None, init_from: str | None = None) -> None:
    """Log what the store holds and what comes next; exit status 1 where files were left out."""
    if store is None:  # a share of the work has its own message
        return
    result = [f"{len(store):,} cells, {int(store.lengths.sum()):,} tokens, a vocabulary of {len(store.vocab):,}."]
    command = "train" if init_from is None else "finetune"
    next_command = command_line(command, init_from=init_from, store=store.path, name=store.path.name)
    log.info("%s", closing_block(result, [store.path, store.path / REPORT], next_command))
    skipped = [file["name"] for file in store.files if "skipped" in file]
    if skipped:
        log.error("%d input(s) were left out: %s", len(skipped), ", ".join(skipped))
        sys.exit(1)


def make_tokenizer(cfg: DictConfig) -> Tokenizer:
    """The tokenizer of the config, or of the checkpoint that it names, which may be about to grow.

    Raises:
        ValueError: an unknown ``vocab``, or a vocabulary to extend without a checkpoint.
    """
    if cfg.vocab not in ("same", "extend"):
        raise ValueError(f"vocab={cfg.vocab}; expected same or extend")
    if cfg.init_from is not None:
        from scfm.published.dictionaries import Dictionaries  # torch and transformers: a second or more
        from scfm.published.folder import read_checkpoint

        checkpoint = read_checkpoint(cfg.init_from, Dictionaries.from_config(_dictionaries(cfg)))
        tokenizer = from_dict(checkpoint.tokenizer)
        return replace(tokenizer, growing=True) if cfg.vocab == "extend" else tokenizer
    if cfg.vocab == "extend":
        raise ValueError("vocab=extend adds genes to the vocabulary of a checkpoint: give init_from=CHECKPOINT")
    return build(cfg.tokenizer)


def _dictionaries(cfg: DictConfig) -> dict[str, Any]:
    """What of the tokenizer's config may be about a published model: dictionaries, which are null by default."""
    return {key: cfg.tokenizer.get(key) for key in ("token_dictionary", "gene_median", "gene_mapping")}


def _plain(value: Any) -> Any:
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
