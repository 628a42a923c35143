"""Metrics take arrays. import-linter does not look under TYPE_CHECKING; this does."""

import ast
from pathlib import Path

import scfm.metrics


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_metrics_import_of_scfm_only_metrics_and_optional_packages():
    files = sorted(Path(scfm.metrics.__file__).parent.rglob("*.py"))
    assert len(files) > 8
    foreign = {
        path.name: {name for name in imported(path) if name.startswith("scfm.") and not name.startswith("scfm.metrics")}
        - {"scfm.imports.optional"}
        for path in files
    }
    assert not {name: found for name, found in foreign.items() if found}
    assert not [path.name for path in files if "anndata" in imported(path)]
