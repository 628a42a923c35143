"""``report.html`` of a store: what became of the files, with pictures, in one page that needs nothing else."""

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scfm.data.encode import GENES_PER_BIN
from scfm.data.store import TokenStore

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1000px;color:#222}
table{border-collapse:collapse;width:100%;font-size:13px}
td,th{padding:.3em .6em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}img{max-width:49%}code{background:#f3f3f3;padding:.1em .3em}"""
_BLUE, _GREY = "#3b6ea5", "#9aa5b1"
#: Bars of a picture, at most.
MOST = 20


def write_report(store: TokenStore, path: Path) -> None:
    """Write the page.

    Args:
        store: made by ``prepare``.
        path: the file.
    """
    corpus = store.report
    pictures = [
        _histogram("genes per cell", _edges(len(corpus["genes_per_cell"]), GENES_PER_BIN), corpus["genes_per_cell"]),
        _tokens(corpus),
        _bars("counts lost, by gene", dict(map(tuple, corpus["genes"]["dropped_most"]))),
        *(_bars(f"cells by {column}", _cells_by(store, column)) for column in _grouping(store)),
    ]
    dropped = "".join(f"<li>{n:,} cells dropped: {html.escape(reason)}</li>" for reason, n in corpus["dropped"].items())
    body = (
        f"<h1>{html.escape(str(store.tokenizer.get('options', {}).get('name', 'cells')))}</h1>"
        f"<p>{corpus['kept']:,} of {corpus['cells']:,} cells, vocabulary of {len(store.vocab):,} tokens "
        f"<code>{store.vocab.hash[:12]}</code>, {corpus['truncated'] / max(corpus['kept'], 1):.1%} of the cells cut at "
        f"the maximum length, {corpus['genes']['share_dropped']:.1%} of the counts without a token.</p>"
        f"<ul>{dropped}</ul>{_table(store, corpus)}" + "".join(map(_inline, pictures))
    )
    page = f"<!doctype html><meta charset='utf-8'><title>token store</title><style>{_STYLE}</style>{body}\n"
    path.write_text(page, encoding="utf-8")


def _grouping(store: TokenStore) -> list[str]:
    """The columns whose cells are counted: file, group and the first few categories."""
    named = [column for column in store.columns if store.categories(column) is not None]
    return list(dict.fromkeys(["file", *([store.group] if store.group else []), *named]))[:6]


def _cells_by(store: TokenStore, column: str) -> dict[str, float]:
    codes, names = store.obs(column), store.categories(column) or ()
    counted = np.bincount(codes[codes >= 0], minlength=len(names))
    return {names[i]: float(counted[i]) for i in np.argsort(-counted, kind="stable")}


def _table(store: TokenStore, corpus: Mapping[str, Any]) -> str:
    head = (
        "file",
        "cells",
        "kept",
        "genes",
        "in vocabulary",
        "merged",
        "dropped",
        "counts lost",
        "median tokens",
        "cut",
    )
    rows = []
    for name, of in [*((file["name"], file) for file in store.files), ("all", corpus)]:
        if "skipped" in of:
            rows.append(
                f"<tr><td>{html.escape(name)}</td><td colspan=9>skipped: {html.escape(of['skipped'])}</td></tr>"
            )
            continue
        genes = of["genes"]
        numbers = (of["cells"], of["kept"], *(genes[key] for key in ("n_genes", "n_mapped", "n_merged", "n_dropped")))
        cut = of["truncated"] / max(of["kept"], 1)
        values = [
            *(f"{n:,}" for n in numbers),
            f"{genes['share_dropped']:.1%}",
            f"{of['median_tokens']:,}",
            f"{cut:.1%}",
        ]
        rows.append(f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>")
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(rows)}</table>"


def _edges(bins: int, width: float) -> np.ndarray:
    return np.arange(bins) * width


def _tokens(corpus: Mapping[str, Any]) -> Figure:
    """Tokens per cell in at most 64 bins."""
    counted = np.array(corpus["tokens_per_cell"])
    width = max(1, -(-len(counted) // 64))
    padded = np.pad(counted, (0, -len(counted) % width))
    return _histogram("tokens per cell", _edges(len(padded) // width, width), padded.reshape(-1, width).sum(axis=1))


def _histogram(title: str, edges: np.ndarray, counted: Any) -> Figure:
    figure, counts = Figure(figsize=(5, 3)), np.asarray(counted)
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    axes = figure.add_axes((0.16, 0.12, 0.8, 0.76))
    axes.bar(edges[:last], counts[:last], width=edges[1] - edges[0] if len(edges) > 1 else 1, align="edge", color=_BLUE)
    axes.set(title=title, ylabel="cells")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(title: str, values: Mapping[str, float]) -> Figure:
    """The largest values as horizontal bars."""
    shown = list(values.items())[:MOST]
    height = max(1.6, 0.24 * len(shown) + 0.9)
    figure = Figure(figsize=(5, height))
    axes = figure.add_axes((0.42, 0.4 / height, 0.53, 1 - 0.8 / height))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.barh([name if len(name) <= 24 else f"{name[:23]}…" for name, _ in shown], [n for _, n in shown], color=_GREY)
    axes.invert_yaxis()
    axes.set(title=title if len(values) <= MOST else f"{title}: {MOST} of {len(values)}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _inline(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return f"<img src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
