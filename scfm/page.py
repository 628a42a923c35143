"""The template of all reports: one HTML file that needs no other file and no network."""

from __future__ import annotations

import base64
import html
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from scfm.io import write_text

PACKAGES: tuple[str, ...] = (
    "scfm-framework",
    "torch",
    "transformers",
    "pytorch-lightning",
    "datasets",
    "anndata",
    "scanpy",
    "numpy",
)
PACKAGES += ("scipy", "scikit-learn", "pandas", "umap-learn", "harmonypy", "scvi-tools")

STYLE = """
:root{color-scheme:light dark;--ink:#222;--quiet:#555;--paper:#fff;--line:#ddd;--head:#f6f6f6;--own:#eef5fa;
--best:#005a8d;--note:#fdf3e0;--a:#3b6ea5;--b:#9aa5b1}
@media(prefers-color-scheme:dark){:root{--ink:#e4e4e4;--quiet:#aaa;--paper:#16181b;--line:#3a3f45;--head:#24282d;
--own:#1c2c38;--best:#7cc4f2;--note:#3a2f1a;--a:#6fa3d8;--b:#7d8894}img{background:#fff;border-radius:4px}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);
background:var(--paper);max-width:1180px;margin:0 auto;padding:24px 32px 64px;overflow-wrap:anywhere}
h1{font-size:27px;margin:8px 0 4px}
h2{font-size:20px;margin:38px 0 8px;border-bottom:1px solid var(--line);padding-bottom:4px}
p{margin:8px 0;max-width:60em}.summary p{font-size:18px;background:var(--own);border-left:4px solid #0072b2;
padding:10px 14px;max-width:none}.warning{background:var(--note);border-left:4px solid #e69f00;padding:8px 14px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:14px;margin:10px 0;font-variant-numeric:tabular-nums}
th,td{padding:5px 11px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{background:var(--head);border-bottom:2px solid var(--quiet)}
.wide th:first-child{position:sticky;left:0;background:var(--paper);white-space:normal;min-width:9em}
td.best{font-weight:700;color:var(--best)}tr.own td,.wide tr.own th{background:var(--own)}
.settings td{white-space:normal;text-align:left;overflow-wrap:anywhere}
figure{margin:16px 0}.row{display:flex;flex-wrap:wrap;gap:8px 40px}.row figure{max-width:530px}
img{max-width:100%;height:auto}
figcaption{font-size:14px;color:var(--quiet);max-width:60em}
code{background:var(--head);padding:.1em .3em}svg{vertical-align:top;max-width:100%;height:auto}
svg text{font-size:11px;fill:var(--ink)}svg .t{font-size:14px;text-anchor:middle}svg .m{text-anchor:middle}
svg .e{text-anchor:end}svg path{fill:none;stroke:var(--ink)}svg .a rect{fill:var(--a)}svg .b rect{fill:var(--b)}
@media(max-width:640px){body{padding:12px 12px 40px}h1{font-size:22px}.summary p{font-size:16px}
th,td{padding:4px 7px}figure{overflow-x:auto}figure img{max-width:none}
figcaption{position:sticky;left:0}}
"""


@dataclass(frozen=True)
class Section:
    """A headed part of a report.

    Attributes:
        title: its heading; empty for none.
        parts: HTML made by the functions of this module.
        kind: ``summary`` is set off from the rest.
    """

    title: str
    parts: Sequence[str]
    kind: str = ""


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write a page that needs no other file and no network.

    Args:
        path: the .html file; it appears whole or not at all.
        title: of the page.
        sections: in order; empty ones are left out.

    Returns:
        The path.
    """
    path = Path(path)
    body = "\n".join(_section(section) for section in sections if section.parts)
    name = html.escape(title)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{name}</h1>\n{body}\n</body></html>\n"
    )
    write_text(path, page)
    return path


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def warning(text: str) -> str:
    """A paragraph that is set off as a warning."""
    return f'<p class="warning">{html.escape(text)}</p>'


def bullets(texts: Sequence[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def image(png: bytes, caption: str, width: int | None = None) -> str:
    """A PNG picture inside the page, with its caption.

    Args:
        png: the file's bytes.
        caption: below it.
        width: in pixels of the page; None for that of the picture.
    """
    text, size = html.escape(caption), "" if width is None else f' width="{width}"'
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img alt="{text}"{size} src="{source}"><figcaption>{text}</figcaption></figure>'


def side_by_side(*parts: str) -> str:
    """Figures in one row where the window is wide enough."""
    return f'<div class="row">{"".join(parts)}</div>'


def table(
    values: pd.DataFrame,
    *,
    smaller_is_better: Sequence[str] = (),
    unranked: Sequence[str] = (),
    contenders: Sequence[str] | None = None,
    own: Sequence[str] = (),
) -> str:
    """Methods × scores, the best of each column in bold.

    Args:
        values: numbers (three decimals) or text.
        smaller_is_better: columns whose best value is the smallest.
        unranked: columns without a best.
        contenders: rows that can be best; None for all.
        own: rows to set off.

    Returns:
        HTML.
    """
    rows = list(values.index) if contenders is None else [name for name in values.index if name in set(contenders)]
    best: dict[str, Any] = {}
    for column in values.select_dtypes("number").columns.difference(list(unranked)):
        part = values.loc[rows, column]
        if part.notna().sum() > 1:
            best[column] = part.min() if column in smaller_is_better else part.max()
    head = "".join(f"<th>{html.escape(str(name).replace('_', ' '))}</th>" for name in values.columns)
    lines = []
    for name, row in values.iterrows():
        cells = "".join(_cell(row[c], name in rows and c in best and _shown(row[c]) == _shown(best[c])) for c in values)
        lines.append(f"<tr{_class('own' if name in own else '')}><th>{html.escape(str(name))}</th>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def settings(values: Mapping[str, Any]) -> str:
    """A config or other names and values; nested ones as ``outer.inner``."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in _flat(values)
    )
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that change the numbers, as far as they are installed."""
    installed = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _section(section: Section) -> str:
    heading = f"<h2>{html.escape(section.title)}</h2>" if section.title else ""
    return f"<section{_class(section.kind)}>{heading}{''.join(section.parts)}</section>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(value: Any, is_best: bool) -> str:
    return f"<td{_class('best' if is_best else '')}>{html.escape(_shown(value))}</td>"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.3f}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
