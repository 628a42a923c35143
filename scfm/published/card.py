"""The model card of an exported folder, from what the checkpoint and its run say; nothing else is claimed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from scfm import __version__
from scfm.checkpoint import Checkpoint
from scfm.head.base import Head
from scfm.model.backbone import Backbone
from scfm.published.transformers_head import TransformersHead
from scfm.store.token_store import TokenStore
from scfm.tokenizer import Tokenizer, from_dict

CARD = "README.md"
#: What a metric stands beside: the same of a table of gene frequencies.
BASELINES = {f"val/{name}": f"val/unigram_{name}" for name in ("loss", "top1", "top10")}


def write_card(
    checkpoint: Checkpoint,
    backbone: Backbone,
    head: Head,
    folder: Path,
    *,
    known: TransformersHead | None,
    dtype: str,
    license: str | None,
) -> None:
    """Write ``README.md`` with the front matter that the hub reads.

    Args:
        checkpoint: what was exported.
        backbone: as exported, low-rank additions merged.
        head: the head beside, or the base class.
        folder: where the card goes.
        known: the head as a class of transformers computes it, if there is such a class.
        dtype: of the weights.
        license: of the weights, or None.
    """
    tokenizer = from_dict(checkpoint.tokenizer)
    sections = {
        "Data": _data(checkpoint),
        "Tokens": _tokens(tokenizer, backbone),
        "Model": _model(checkpoint, backbone, dtype),
        "Cell embeddings": _rule(backbone),
        "Head": _head(head, known),
        "Metrics": _metrics(checkpoint),
        "How to load it": _loading(checkpoint, tokenizer, known),
        "Limits": _limits(tokenizer, backbone, license),
    }
    title = str(checkpoint.config.get("name") or "model")
    text = "\n\n".join(f"## {name}\n{body}" for name, body in sections.items() if body)
    (folder / CARD).write_text(f"{_front(checkpoint, known, license)}\n# {title}\n\n{text}\n", encoding="utf-8")


def _task(checkpoint: Checkpoint, known: TransformersHead | None) -> str:
    """By the names of the hub."""
    if known is not None:
        return "text-classification" if "Sequence" in known.architecture else "token-classification"
    if checkpoint.bare:
        return "feature-extraction"
    return "text-generation" if checkpoint.causal else "fill-mask"


def _front(checkpoint: Checkpoint, known: TransformersHead | None, license: str | None) -> str:
    lines = ["---", *([f"license: {json.dumps(license)}"] if license else []), "library_name: transformers"]
    lines += ["tags:", "- single-cell", "- genomics", "- scfm"]
    lines += [f"pipeline_tag: {_task(checkpoint, known)}"]
    origin = _base_model(str(checkpoint.config.get("init_from") or checkpoint.path))
    lines += [f"base_model: {json.dumps(origin)}"] if origin else []
    return "\n".join([*lines, "---"])


def _base_model(origin: str) -> str | None:
    """``USER/NAME`` of a model of the hub, from its address or from its folder in the cache; None of any other."""
    found = re.search(r"hf:/+([\w.-]+)/([\w.-]+)|models--([\w.-]+?)--([\w.-]+)/snapshots/", origin)
    return None if found is None else "/".join(part for part in found.groups() if part)


def _data(checkpoint: Checkpoint) -> str:
    lines = []
    for path in checkpoint.stores:
        try:
            store = TokenStore.open(path, checkpoint.tokenizer)
        except (OSError, ValueError):
            lines.append(f"- store `{path.name}`: not at hand when this card was written, so its cells are not counted")
            continue
        files = f", from {len(store.files)} files" if store.files else ""
        lines.append(f"- store `{path.name}`: {len(store):,} cells, {int(store.lengths.sum()):,} tokens{files}")
    data = checkpoint.config.get("data", {})
    held = [f"{name} {data[name]:g}" for name in ("val", "test") if isinstance(data.get(name), (int, float))]
    if held:
        lines.append(f"- share of the cells held out of training: {', '.join(held)}")
    return "\n".join(lines) or "The checkpoint does not say which cells it was trained on."


def _tokens(tokenizer: Tokenizer, backbone: Backbone) -> str:
    vocab = tokenizer.require_vocab()
    divided = "the cell's total and the gene's median" if hasattr(tokenizer, "medians") else "nothing"
    specials = ", ".join(f"`{vocab.tokens[i]}` {i} ({role})" for role, i in vocab.specials.items()) or "none"
    return (
        f"A cell is its genes by descending count over {divided} (scheme `{tokenizer.name}`). "
        f"{len(vocab):,} tokens, {len(vocab.gene_ids):,} of them genes; special tokens: {specials}. "
        f"The model reads at most {backbone.n_positions} tokens of a cell, special tokens included. "
        "`tokenizer.json` maps genes that are ranked already to ids; it does not rank."
    )


def _model(checkpoint: Checkpoint, backbone: Backbone, dtype: str) -> str:
    size = sum(parameter.numel() for parameter in backbone.parameters())
    goal = checkpoint.config.get("objective", {}).get("_target_")
    kind = "next-gene prediction" if checkpoint.causal else "masked-gene prediction"
    trained = "trained" if checkpoint.command == "train" else "fine-tuned"
    averaged = "ema" in (checkpoint.config.get("callbacks") or {})
    lines = [
        f"{type(backbone.model).__name__}, {backbone.n_layers} layers, width {backbone.width}, {size:,} parameters, "
        f"weights in {dtype}; {trained} for {checkpoint.step:,} optimizer steps by scfm {__version__}."
    ]
    lines += [f"Objective: {kind} (`{goal}`)."] if goal else []
    lines += ["The weights are the average over the last steps of the run (EMA)."] if averaged else []
    if str(checkpoint.config.get("adapt", {}).get("_target_")).endswith(".lora"):
        lines.append("Low-rank additions (LoRA) are merged into the matrices.")
    return " ".join(lines)


def _rule(backbone: Backbone) -> str:
    left_out = {"mean": "special tokens are left out", "all": "special tokens are counted"}
    rule = left_out.get(backbone.embedding_pool, "the first token alone is read")
    return (
        f"`hidden_states[{backbone.embedding_layer}]` (index 0 is the input), pooled by `{backbone.embedding_pool}`: "
        f"{rule}. {backbone.width} numbers a cell."
    )


def _head(head: Head, known: TransformersHead | None) -> str:
    if known is not None:
        names = ", ".join(f"`{name}`" for name in known.classes[:20]) + (", ..." if len(known.classes) > 20 else "")
        calibrated = " Calibration is in `head.safetensors` alone, which scfm reads." if head.state_dict() else ""
        return f"`model.safetensors` has the classifier as `{known.architecture}` computes it: {names}.{calibrated}"
    if not head.state_dict():
        return ""
    return (
        f"`head.safetensors` holds the weights of `{type(head).__module__}.{type(head).__name__}`, which scfm reads. "
        "transformers has no class that computes it, so `model.safetensors` is the backbone alone."
    )


def _metrics(checkpoint: Checkpoint) -> str:
    """The run's own metrics where they are those of this checkpoint, beside the table of gene frequencies."""
    found = run_metrics(checkpoint)
    if not found:
        return "This checkpoint has no metrics beside it: nothing is claimed."
    lines = ["| metric | model | gene frequencies |", "|---|---|---|"]
    for name, value in found.items():
        if name in BASELINES.values():
            continue
        beside = found.get(BASELINES.get(name, ""))
        lines.append(f"| {name} | {value:.4f} | {'' if beside is None else f'{beside:.4f}'} |")
    return "\n".join(lines)


def run_metrics(checkpoint: Checkpoint) -> dict[str, float]:
    """``metrics.json`` of the run, empty unless it was written for this checkpoint: the last, or the best."""
    path, own = checkpoint.path.parent.parent / "metrics.json", checkpoint.path.stem
    names = ("last",) if checkpoint.command == "train" else ("best", "last")
    try:
        if own not in names or path.stat().st_mtime < checkpoint.path.stat().st_mtime:
            return {}
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if own == "last" and (path.parent / "checkpoints" / "best.ckpt").exists():
        return {}
    return {str(name): float(value) for name, value in found.items() if isinstance(value, (int, float))}


def _loading(checkpoint: Checkpoint, tokenizer: Tokenizer, known: TransformersHead | None) -> str:
    auto = "AutoModelForCausalLM" if checkpoint.causal else "AutoModelForMaskedLM"
    if known is not None:
        auto = known.architecture.replace("Bert", "AutoModel")
    elif checkpoint.bare:
        auto = "AutoModel"
    text = f'```python\nfrom transformers import {auto}, AutoTokenizer\n\nmodel = {auto}.from_pretrained("FOLDER")\n'
    text += 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n```'
    if hasattr(tokenizer, "medians"):
        mode = "" if "cls" in tokenizer.specials else ', `emb_mode="cell"` (there is no `<cls>`)'
        text += (
            '\n\nGeneformer\'s own classes read the dictionaries with `model_version="V2"` (with "V1" they take '
            "their own instead), `token_dictionary_file=`, `gene_median_file=` and `gene_mapping_file=` as `str`, "
            f"not `Path`{mode}."
        )
    return text


def _limits(tokenizer: Tokenizer, backbone: Backbone, license: str | None) -> str:
    lines = [
        f"- genes outside the vocabulary, and below the first {tokenizer.genes_per_cell} of a cell, are not read",
        "- ranks hold no absolute expression",
        "- embeddings were compared with no other method for this card: `scfm-evaluate` does so on your cells",
    ]
    if backbone.n_positions < backbone.config.max_position_embeddings:
        lines.append(f"- positions from {backbone.n_positions} on were never trained")
    if license is None:
        lines.append("- no license was stated by whoever exported it")
    return "\n".join(lines)
