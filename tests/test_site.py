"""The site is built without a warning, its links lead somewhere, and it describes all that is public."""

import ast
import os
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
pytest.importorskip("nbconvert")

from scfm.help.keys import CONFIGS, read_command

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a warning is an error (``strict``)."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=280, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return folder


class Page(HTMLParser):
    """Links, anchors and what a browser would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loaded.append(given["href"])


@cache
def page(path: Path) -> Page:
    return Page(path)


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_no_link_leads_nowhere(site):
    lost = []
    for path in pages(site):
        if path.name == "404.html":
            continue
        for link in page(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            is_there = target.is_file() and (
                not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in page(target).anchors
            )
            if not is_there:
                lost.append(f"{path.relative_to(site)} -> {link}")
    assert lost == []


def test_nothing_is_loaded_from_elsewhere(site):
    loaded = {link for path in pages(site) for link in page(path).loaded}
    assert not [link for link in loaded if urlsplit(link).netloc]


def test_every_public_class_and_function_is_described(site):
    anchors = set().union(*(page(path).anchors for path in (site / "api").glob("*.html")))
    silent = []
    for path in sorted((REPOSITORY / "scfm").rglob("*.py")):
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                silent += [] if f"{module}.{node.name}" in anchors else [f"{module}.{node.name}"]
    assert len(anchors) > 1000
    assert silent == []


def test_every_key_of_every_command_has_its_row(site):
    for yaml in CONFIGS.glob("*.yaml"):
        if yaml.stem != "base":
            text = (site / f"commands/{yaml.stem}.html").read_text(encoding="utf-8")
            assert all(f"<code>{key.name}</code>" in text for key in read_command(yaml.stem).keys)


def test_every_page_of_docs_is_on_the_site(site):
    for source in (REPOSITORY / "docs").glob("*.md"):
        assert (site / f"{source.stem}.html").is_file()
    index = (site / "index.html").read_text(encoding="utf-8")
    assert all(f"tutorials/{path.stem}.html" in index for path in (REPOSITORY / "notebooks").glob("*.ipynb"))


def test_roles_of_docstrings_do_not_reach_the_reader(site):
    for path in (site / "api").glob("*.html"):
        assert ":class:`" not in path.read_text(encoding="utf-8"), path.name
        assert ":func:`" not in path.read_text(encoding="utf-8"), path.name
