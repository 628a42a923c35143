"""Names by the majority of neighbors: equal to counting votes, and never in the way of the names of single cells."""

import numpy as np
import pytest

from scfm.head.base import Written
from scfm.inference.vote import add_majority, require_vote


def entries(names, space, key="X_scfm"):
    return Written(
        obs={"scfm_type": np.array(names, dtype=object), "scfm_type_guess": np.array(names, dtype=object)},
        obsm={key: np.asarray(space, dtype=np.float32)},
        uns={"scfm": {}},
    )


def test_one_wrong_cell_is_outvoted_and_the_names_stay():
    given = entries(["A"] * 5 + ["B"] + ["B"] * 6, np.r_[np.linspace(0, 1, 6), np.linspace(10, 11, 6)][:, None])
    found = add_majority(given, "X_scfm", 3)
    assert found.obs["scfm_type_majority"].tolist() == ["A"] * 6 + ["B"] * 6
    assert found.obs["scfm_type"] is given.obs["scfm_type"]
    assert set(found.obs) == {"scfm_type", "scfm_type_guess", "scfm_type_majority"}


@pytest.mark.parametrize("vote", [1, 4, 5, 200])
def test_it_is_the_commonest_name_among_the_nearest(vote):
    rng = np.random.default_rng(0)
    space, names = rng.normal(size=(60, 3)), rng.choice(["A", "B", "unknown"], 60)
    found = add_majority(entries(names, space), "X_scfm", vote).obs["scfm_type_majority"]
    for cell in range(60):
        order = np.argsort(np.linalg.norm(space - space[cell], axis=1), kind="stable")[: vote + 1]
        counted = {name: int((names[order] == name).sum()) for name in set(names[order])}
        most = {name for name, n in counted.items() if n == max(counted.values())}
        assert found[cell] in most
    if vote == 1:  # one vote each: the cell's own
        assert found.tolist() == names.tolist()


def test_what_the_head_reads_decides_on_neighbors():
    given = entries(["A", "A", "B", "B", "B"], [[0], [9], [0.1], [0.2], [0.3]])
    apart = Written(obs=given.obs, obsm={**given.obsm, "X_scfm_state": np.array([[0], [0], [9], [9], [9.0]])})
    assert add_majority(given, "X_scfm", 2).obs["scfm_type_majority"].tolist()[0] == "B"
    assert add_majority(apart, "X_scfm", 2).obs["scfm_type_majority"].tolist()[2:] == ["B"] * 3


def test_a_cell_without_genes_has_no_vote():
    given = entries(["unknown", "A", "A"], [[np.nan], [0], [1]])
    assert add_majority(given, "X_scfm", 5).obs["scfm_type_majority"].tolist() == ["unknown", "A", "A"]


def test_nothing_is_added_where_no_one_votes_or_nothing_is_named():
    given = entries(["A", "B"], [[0], [1]])
    assert add_majority(given, "X_scfm", 0) is given
    plain = Written(obs={"scfm_pseudotime": np.zeros(2)}, obsm=given.obsm)
    assert add_majority(plain, "X_scfm", 5) is plain


@pytest.mark.parametrize(
    ("vote", "n", "words"),
    [(-1, 9, "vote=-1; expected"), (15, 200_000, "vote=15 seeks the neighbors of 200,000 cells")],
)
def test_votes_that_cannot_be_held_are_refused_before_any_work(vote, n, words):
    with pytest.raises(ValueError, match=words):
        require_vote(vote, n)
    require_vote(0, n)
