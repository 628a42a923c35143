from types import SimpleNamespace

import numpy as np

from scfm.evaluation.annotation import few_shots
from scfm.evaluation.folds import make_folds
from scfm.evaluation.options import Options


def test_few_shot_draws_go_round_the_folds_and_see_no_test_cell():
    codes = np.arange(40) % 2
    folds = make_folds(codes, None, 2, 0)
    cells = SimpleNamespace(codes=codes, classes=("a", "b"))
    fitted, seen = [], []

    def features(train):
        fitted.append(train)
        return np.arange(40.0)[:, None]

    def model(train, own, test):
        seen.append((train[:, 0].astype(int), test[:, 0].astype(int)))
        return np.array([0, 1]), np.eye(2)[codes[test[:, 0].astype(int)]]

    shots = few_shots(cells, {"all right": (features, model)}, folds, Options(shots=[0.5, 1.0], seed=3))
    assert shots["share"].value_counts().to_dict() == {0.5: 5, 1.0: 2}
    assert (shots["macro_f1"] == 1).all()
    assert {tuple(train) for train in fitted} == {tuple(train) for train, _ in folds}
    for train, test in seen:
        (fold,) = [train_rows for train_rows, test_rows in folds if set(test) == set(test_rows)]
        assert set(train) <= set(fold)
        assert len(train) in (10, 11, 12, 20)
    assert len({tuple(train) for train, _ in seen if len(train) < 20}) == 5


def test_no_few_shot_curve_where_none_is_asked_for():
    assert few_shots(SimpleNamespace(codes=np.zeros(2)), {}, [], Options()).empty
