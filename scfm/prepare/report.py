"""``report.html`` of a store: what became of the files, with pictures, in one page that needs nothing else.

The pictures are drawn as SVG here: a plotting library would take longer than the cells of a small file, and its version
would show in the bytes.
"""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scfm.io import write_text
from scfm.prepare.encode import GENES_PER_BIN
from scfm.store.token_store import TokenStore

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1000px;color:#222}
table{border-collapse:collapse;width:100%;font-size:13px}
td,th{padding:.3em .6em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}svg{vertical-align:top}
code{background:#f3f3f3;padding:.1em .3em}
svg text{font-size:11px;fill:#333}svg .t{font-size:14px;text-anchor:middle}svg .m{text-anchor:middle}
svg .e{text-anchor:end}
svg path{fill:none;stroke:#333}svg .a rect{fill:#3b6ea5}svg .b rect{fill:#9aa5b1}"""
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
        _histogram("genes per cell", GENES_PER_BIN, corpus["genes_per_cell"]),
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
        f"<ul>{dropped}</ul>{_table(store, corpus)}" + "".join(pictures)
    )
    page = f"<!doctype html><meta charset='utf-8'><title>token store</title><style>{_STYLE}</style>{body}\n"
    write_text(path, page)


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


def _tokens(corpus: Mapping[str, Any]) -> str:
    """Tokens per cell in at most 64 bins."""
    counted = np.array(corpus["tokens_per_cell"])
    width = max(1, -(-len(counted) // 64))
    padded = np.pad(counted, (0, -len(counted) % width))
    return _histogram("tokens per cell", width, padded.reshape(-1, width).sum(axis=1))


def _histogram(title: str, width: float, counted: Any) -> str:
    """Upright bars, one per bin of ``width``."""
    counts = np.asarray(counted)
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    counts, top, step = counts[:last], max(int(counts.max()), 1), 400 / last
    bars = "".join(
        f"<rect x='{50 + i * step:.1f}' y='{190 - 160 * n / top:.1f}' width='{step:.1f}' height='{160 * n / top:.1f}'/>"
        for i, n in enumerate(counts.tolist())
        if n
    )
    ticks = "".join(
        f"<text x='{50 + share * 400:.0f}' y='206' class='m'>{share * last * width:,.0f}</text>"
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    scale = f"<text x='44' y='36' class='e'>{top:,}</text><text x='44' y='190' class='e'>0</text>"
    return _picture(title, 215, f"<g class='a'>{bars}</g><path d='M50 25V190H450'/>{ticks}{scale}")


def _bars(title: str, values: Mapping[str, float]) -> str:
    """The largest values as lying bars."""
    shown = list(values.items())[:MOST]
    top = max([1.0, *(n for _, n in shown)])
    rows = "".join(
        f"<text x='190' y='{41 + 17 * i}' class='e'>{html.escape(name if len(name) <= 28 else name[:27] + '…')}</text>"
        f"<rect x='196' y='{30 + 17 * i}' width='{200 * n / top:.1f}' height='13'/>"
        f"<text x='{200 + 200 * n / top:.0f}' y='{41 + 17 * i}'>{n:,.0f}</text>"
        for i, (name, n) in enumerate(shown)
    )
    title = title if len(values) <= MOST else f"{title}: {MOST} of {len(values)}"
    return _picture(title, 40 + 17 * len(shown), f"<g class='b'>{rows}</g>")


def _picture(title: str, height: int, inside: str) -> str:
    heading = f"<text x='240' y='16' class='t'>{html.escape(title)}</text>"
    return f"<svg viewBox='0 0 480 {height}' width='480' height='{height}'>{heading}{inside}</svg>"
