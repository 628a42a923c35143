"""Whatever a user types as a path, the command gets it."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import bounded
from scfm.cli import lenient

LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from(
    list("'\"[]{}(),=\\\n $#~")
)


@bounded(400)
@given(st.text(LETTERS, min_size=1, max_size=16), st.sampled_from(["input", "+a.folder", "++output", "hydra.run.dir"]))
def test_a_path_of_any_letters(text, key):
    path = f"d/{text}.h5ad"
    (argument,) = lenient([f"{key}={path}"])
    override = OverridesParser.create().parse_override(argument)
    if "," not in text or key != "+a.folder":
        assert str(override.value()) == path


@bounded(300)
@given(
    st.lists(st.text(LETTERS, max_size=10) | st.sampled_from(["-m", "--config-dir", "-cd=x", "=", "~a=b"]), max_size=5)
)
def test_any_words(words):
    assert len(lenient(words)) == len(words)
