"""The page of published models names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_difference_has_its_test():
    page = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    table = page.split("## What differs from the published code")[1].split("\n\n")[0].splitlines()[3:]
    assert len(table) > 10
    for line in table:
        path, name = re.search(r"`(tests/[\w/]+\.py)::(\w+)`", line).groups()
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), line
