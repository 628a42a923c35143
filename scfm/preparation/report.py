"""``report.html`` of a store: what was read from the files, with pictures.

The pictures are drawn as SVG here: a plotting library would take longer than the cells of a small file, and its version
would show in the bytes.
"""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scfm.page import Section, bullets, paragraph, side_by_side, table, warning, write_page
from scfm.preparation.encode import GENES_PER_BIN
from scfm.store.token_store import TokenStore

#: Columns of the table that count the genes of one file.
GENE_COLUMNS = ("genes", "in vocabulary", "merged", "dropped")
#: Bars of a picture, at most.
MOST = 20


def write_report(store: TokenStore, path: Path) -> None:
    """Write the page.

    Args:
        store: made by ``prepare``.
        path: the file.
    """
    title = str(store.tokenizer.get("options", {}).get("name", "cells"))
    write_page(path, title, _sections(store, store.report))


def _sections(store: TokenStore, corpus: Mapping[str, Any]) -> list[Section]:
    text = (
        f"{corpus['kept']:,} of {corpus['cells']:,} cells, vocabulary of {len(store.vocab):,} tokens "
        f"{store.vocab.hash[:12]}, {corpus['truncated'] / max(corpus['kept'], 1):.1%} of the cells cut at the maximum "
        f"length, {corpus['genes']['share_dropped']:.1%} of the counts without a token."
    )
    text += "".join(f" {_describe_field(store, kind)}" for kind in store.fields)
    skipped = [f"{file['name']} was skipped: {file['skipped']}" for file in store.files if "skipped" in file]
    dropped = [f"{n:,} cells dropped: {reason}" for reason, n in corpus["dropped"].items()]
    pictures = [
        _histogram("genes per cell", GENES_PER_BIN, corpus["genes_per_cell"]),
        _tokens(corpus),
        _bars("counts lost, by gene", dict(map(tuple, corpus["genes"]["dropped_most"]))),
        *(_bars(f"cells by {column}", _count_cells(store, column)) for column in _grouping_columns(store)),
    ]
    return [
        Section("", [paragraph(text)], "summary"),
        Section("", [*map(warning, skipped), *([bullets(dropped)] if dropped else [])]),
        Section("Files", [_table(store, corpus)]),
        Section("Cells and genes", [side_by_side(*pictures)]),
    ]


def _describe_field(store: TokenStore, kind: str) -> str:
    """A sentence on a second modality: its features, and the files that have them."""
    records = [(file["name"], file.get("fields", {}).get(kind)) for file in store.files if "skipped" not in file]
    files = "; ".join(
        f"{name}: none" if one is None else f"{name}: {one['kept']:,} of {one['features']:,} in {one['cells']:,} cells"
        for name, one in records
    )
    names = store.fields[kind].names
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"{len(names):,} {kind} ({listed}) from {files}."


def _grouping_columns(store: TokenStore) -> list[str]:
    """The columns whose cells are counted: file, group and the first few categories."""
    named = [column for column in store.columns if store.categories(column) is not None]
    return list(dict.fromkeys(["file", *([store.group] if store.group else []), *named]))[:6]


def _count_cells(store: TokenStore, column: str) -> dict[str, float]:
    codes, names = store.obs(column), store.categories(column) or ()
    counted = np.bincount(codes[codes >= 0], minlength=len(names))
    return {names[i]: float(counted[i]) for i in np.argsort(-counted, kind="stable")}


def _table(store: TokenStore, corpus: Mapping[str, Any]) -> str:
    """A row for each file that was read, and where there are several one for all of them.

    The latter has no numbers of genes: a gene is in several files, so that their sum counts no genes.
    """
    files = [file for file in store.files if "skipped" not in file]
    frame = pd.DataFrame([_row(file) for file in files], index=[file["name"] for file in files])
    if len(files) > 1:
        frame.loc["all"] = _row(corpus) | dict.fromkeys(GENE_COLUMNS, "")
    return table(frame)


def _row(numbers: Mapping[str, Any]) -> dict[str, str]:
    genes = numbers["genes"]
    counted = {
        "cells": numbers["cells"],
        "kept": numbers["kept"],
        "genes": genes["n_genes"],
        "in vocabulary": genes["n_mapped"],
        "merged": genes["n_merged"],
        "dropped": genes["n_dropped"],
    }
    return {name: f"{value:,}" for name, value in counted.items()} | {
        "counts lost": f"{genes['share_dropped']:.1%}",
        "median tokens": f"{numbers['median_tokens']:,}",
        "cut": f"{numbers['truncated'] / max(numbers['kept'], 1):.1%}",
    }


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
