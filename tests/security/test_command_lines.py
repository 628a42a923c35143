"""Any path can be given on a command line: what Hydra's grammar would misread is quoted."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from scfm.cli import lenient, quoted

HARD = [
    "it's.h5ad",
    "a[1].h5ad",
    "{x}.h5ad",
    "one, two.h5ad",
    "two\nlines.h5ad",
    "a=b.h5ad",
    "sample(1).h5ad",
    " leading.h5ad",
    "a#b;c&d!e~f.h5ad",
    "C:\\data\\'x\\",
    "back\\\\slash.h5ad",
    '"half quoted.h5ad',
    "'",
    "ends in '",
    "a\r\nb\tc",
    "Größe é's.h5ad",
]


def value_of(argument: str):
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("path", HARD)
def test_a_path_of_any_characters_arrives_as_it_is(path):
    (argument,) = lenient([f"input={path}"])
    assert value_of(argument) == path
    assert lenient([argument]) == [argument]


@pytest.mark.parametrize("key", ["+callbacks.more.folder", "++output", "hydra.run.dir"])
def test_keys_of_every_spelling_are_quoted(key):
    assert value_of(lenient([f"{key}=it's"])[0]) == "it's"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
@example("'\\'")
@example("\\\\'\\")
def test_what_is_quoted_is_read_as_it_was(text):
    path = f"x{text}x.h5ad"
    found = value_of(quoted(f"input={path}"))
    assert str(found) == path or found == path


@pytest.mark.parametrize(
    "argument",
    [
        "optim.lr=1e-4",
        "optim.lr=1e-4,1e-3",
        "obs=[cell_type,donor]",
        "obs='[cell_type,donor]'",
        "input=data/*.h5ad",
        "input=['a b.h5ad','c.h5ad']",
        "x={a:1,b:2}",
        "store=null",
        "name='x y'",
        "optim.lr=choice(1,2)",
        "output=${name}/x",
        "x=",
    ],
)
def test_what_hydra_reads_stays_as_it_is(argument):
    assert lenient([argument]) == [f"++{argument}"]


def test_commas_are_sweeps_where_a_sweep_is_asked_for(tmp_path, monkeypatch):
    assert lenient(["-m", "store=a,b"]) == ["-m", "++store=a,b"]
    assert lenient(["store=a,b"]) == ["++store='a,b'"]
    assert lenient(["objective=mlm,ar"]) == ["objective=mlm,ar"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert lenient(["-m", "store=a,b"]) == ["-m", "++store='a,b'"]


def test_paths_in_a_list_are_quoted_one_by_one():
    (argument,) = lenient(["input=[it's.h5ad, b.h5ad]"])
    assert value_of(argument) == ["it's.h5ad", "b.h5ad"]


@pytest.mark.parametrize("path", HARD[:8])
def test_a_command_names_the_path_it_was_given(apart, tmp_path, path):
    code = "import sys; sys.argv[0] = 'scfm-evaluate'; from scfm.cli import evaluate; evaluate()"
    status, said = apart(code, f"input={path}", cwd=tmp_path)
    assert status == 1
    assert f"input={path} does not exist" in said
    assert "Traceback" not in said
