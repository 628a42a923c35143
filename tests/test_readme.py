"""Links between README.md, the pages of docs/ and the notebooks lead somewhere."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *(str(path.relative_to(REPOSITORY)) for path in sorted(REPOSITORY.glob("docs/**/*.md"))),
        *(str(path.relative_to(REPOSITORY)) for path in sorted(REPOSITORY.glob("notebooks/*.ipynb"))),
    ],
)
def test_no_link_leads_nowhere(page):
    path = REPOSITORY / page
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{page} links to {target}"
