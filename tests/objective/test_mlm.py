import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.objective.mlm import MLM
from scfm.objective.score import IGNORE
from scfm.types import Spec
from scfm.vocab import Vocab

MANY = [126] * 60


def test_shares_are_as_asked(spec, cells):
    task, batch = MLM(spec), cells(MANY)
    masked, picked, targets = task.mask(batch)
    assert len(picked) == round(0.15 * 60 * 124)
    assert (targets != IGNORE).all()
    after = masked.ids[picked]
    n = len(picked)
    hidden, kept = (after == 1).sum() / n, (after == targets).sum() / n
    assert hidden == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / n))
    assert kept == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / n) + 1 / 196)


def test_only_genes_are_drawn_and_only_genes_replace_them(spec, cells):
    task = MLM(spec, mask_share=0.0, random_share=1.0)
    drawn, replacing = set(), set()
    for seed in range(30):
        masked, picked, targets = task.mask(cells([126] * 8, seed))
        drawn |= set(targets.tolist())
        replacing |= set(masked.ids[picked].tolist())
    assert drawn == replacing == set(range(4, 200))


def test_what_is_not_drawn_stays(spec, cells):
    batch = cells([40, 60])
    original = batch.ids.clone()
    masked, picked, targets = MLM(spec).mask(batch)
    rest = torch.ones(100, dtype=torch.bool)
    rest[picked] = False
    assert torch.equal(masked.ids[rest], original[rest])
    assert torch.equal(batch.ids, original), "the batch itself is not changed"
    assert torch.equal(targets, original[picked])
    assert torch.equal(picked, picked.unique()), "ascending, none twice"
    assert torch.equal(masked.positions, batch.positions)


def test_every_gene_is_as_likely_as_another(spec, cells):
    batch = cells([42] * 10)
    task, drawn = MLM(spec), torch.zeros(420)
    for seed in range(400):
        drawn[task.mask(replace(batch, seed=seed))[1]] += 1
    genes = torch.isin(batch.ids, torch.arange(4, 200))
    assert (drawn[~genes] == 0).all()
    share = drawn[genes] / 400
    assert share.mean() == pytest.approx(0.15, abs=0.002)
    assert share.std() == pytest.approx(math.sqrt(0.15 * 0.85 / 400), rel=0.2)


def test_the_seed_alone_decides(spec, cells):
    batch = cells([40, 60])
    task = MLM(spec)
    first = task.mask(batch)
    torch.manual_seed(99)
    torch.rand(3)
    again = task.mask(batch)
    assert torch.equal(first[0].ids, again[0].ids)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0].ids, task.mask(replace(batch, seed=1))[0].ids)


def test_loss_is_the_cross_entropy_of_the_full_logits(spec, cells, backbone):
    task, model, batch = MLM(spec), backbone(False), cells([40, 60])
    masked, picked, targets = task.mask(batch)
    full = model.model(
        masked.ids[None], position_ids=batch.positions[None], boundaries=batch.boundaries, longest=60
    ).logits[0]
    labels = torch.full((100,), -100)
    labels[picked] = targets
    found = task(model, batch)
    assert found.keys() == {"loss", "n_targets"}
    torch.testing.assert_close(found["loss"], F.cross_entropy(full, labels), atol=1e-6, rtol=1e-6)
    assert found["n_targets"] == len(targets)


@pytest.mark.parametrize("width", [32, 256])
def test_starts_at_ln_v(width, cells, backbone):
    vocab = Vocab(tuple(f"g{i}" for i in range(5000)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})
    model = backbone(False, vocab=vocab, width=width)
    loss = MLM(Spec(vocab, width))(model, cells([126] * 8, n_tokens=5000))["loss"]
    assert float(loss.detach()) == pytest.approx(math.log(5000), abs=0.15)


def test_pads_are_never_scored(spec, cells, backbone):
    """Even if one slipped into a row."""
    batch = cells([40])
    batch.ids[20:] = 0
    _, picked, targets = MLM(spec, mask_fraction=0.9).mask(batch)
    real = targets != IGNORE
    assert (picked[real] < 20).all()
    assert int(real.sum()) == 19, "19 genes and the cls token are left of the row"


def test_a_row_without_a_gene_has_loss_zero(spec, backbone):
    batch = Batch(torch.tensor([2, 3]), torch.arange(2), torch.tensor([0, 2], dtype=torch.int32), 2, torch.arange(1))
    model, task = backbone(False), MLM(spec)
    found = task(model, batch)
    found["loss"].backward()
    assert float(found["loss"].detach()) == 0
    assert int(found["n_targets"]) == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(float(value) == 0 for value in task.eval()(model, batch).values())


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(3, 30), min_size=1, max_size=5), fraction=st.floats(0.001, 1), seed=st.integers(0, 9)
)
def test_at_least_one_target_at_most_all(lengths, fraction, seed):
    vocab = Vocab(tuple(f"g{i}" for i in range(50)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})
    rng = np.random.default_rng(seed)
    rows = [np.r_[2, rng.integers(4, 50, n - 2), 3] for n in lengths]
    batch = Batch(
        torch.from_numpy(np.concatenate(rows)),
        torch.cat([torch.arange(n) for n in lengths]),
        torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        max(lengths),
        torch.arange(len(lengths)),
        seed=seed,
    )
    _, picked, targets = MLM(Spec(vocab, 8), mask_fraction=fraction).mask(batch)
    n_genes = sum(lengths) - 2 * len(lengths)
    assert len(picked) == (targets != IGNORE).sum() == max(1, round(fraction * n_genes))


def test_evaluation_beside_the_unigram_table(spec, cells, backbone):
    task, model, batch = MLM(spec).eval(), backbone(False).eval(), cells([40, 60])
    found = task(model, batch)
    masked, picked, targets = task.mask(batch)
    logits = model.logits(model(masked)[picked])
    logits[:, :4] = -torch.inf
    best = logits.topk(10).indices == targets[:, None]
    assert float(found["top1"]) == pytest.approx(float(best[:, 0].float().mean()))
    assert float(found["top10"]) == pytest.approx(float(best.any(1).float().mean()))
    counts = np.where(np.arange(200) >= 4, np.arange(200) ** 2 + 1, 0)
    shares = counts / counts.sum()
    assert float(found["unigram_loss"]) == pytest.approx(-np.log(shares[targets.numpy()]).mean(), rel=1e-5)
    assert float(found["unigram_top1"]) == pytest.approx(float((targets == 199).float().mean()))
    assert float(found["unigram_top10"]) == pytest.approx(float((targets >= 190).float().mean()))


def test_without_counts_there_is_no_unigram(vocab, cells, backbone):
    found = MLM(Spec(vocab, 32)).eval()(backbone(False), cells([40]))
    assert found.keys() == {"loss", "n_targets", "top1", "top10"}


def test_upstream_compatible_draws_specials(spec, cells):
    task = MLM(spec, upstream_compat=True, mask_share=0.0, random_share=1.0)
    drawn, replacing = set(), set()
    for seed in range(60):
        masked, picked, targets = task.mask(cells([20] * 20, seed))
        drawn |= set(targets.tolist())
        replacing |= set(masked.ids[picked].tolist())
        assert len(picked) == round(0.15 * 400)
    assert drawn == set(range(2, 200))
    assert replacing == set(range(200))


def test_nothing_is_saved_with_the_weights(spec):
    assert not MLM(spec).state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_fraction": 0.0}, "mask_fraction=0.0"),
        ({"mask_fraction": 1.5}, "mask_fraction=1.5"),
        ({"mask_share": 0.8, "random_share": 0.3}, "sum <= 1"),
        ({"random_share": -0.1}, "random_share=-0.1"),
    ],
)
def test_refused_shares(options, message, spec):
    with pytest.raises(ValueError, match=message):
        MLM(spec, **options)


def test_refused_vocabularies():
    with pytest.raises(ValueError, match="needs a mask token"):
        MLM(Spec(Vocab(("a", "b"), {"pad": 0}), 8))
    with pytest.raises(ValueError, match="no gene to predict"):
        MLM(Spec(Vocab(("a", "b"), {"pad": 0, "mask": 1}), 8))
    with pytest.raises(ValueError, match="token_counts has 2 entries; the vocabulary has 3"):
        MLM(Spec(Vocab(("a", "b", "c"), {"pad": 0, "mask": 1}), 8, token_counts=np.ones(2)))


def test_evaluation_hides_every_target(spec, cells):
    """A model that names each gene that it sees is right about targets left standing, and those are not scored."""
    task, batch = MLM(spec), cells([40, 60])
    left = (task.train().mask(batch)[0].ids == batch.ids)[task.mask(batch)[1]].float().mean()
    assert left > 0
    masked, picked, targets = task.eval().mask(batch)
    assert (masked.ids[picked] == task.mask_id).all()
    assert torch.equal(batch.ids[picked], targets)
