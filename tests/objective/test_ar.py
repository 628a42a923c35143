import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.objective.ar import AR, next_tokens
from scfm.objective.score import IGNORE
from scfm.types import Spec
from scfm.vocab import Vocab


def test_targets_stay_inside_the_cell(cells):
    batch = cells([4, 3, 5])
    targets = next_tokens(batch).tolist()
    ids = batch.ids.tolist()
    expected = [*ids[1:4], IGNORE, *ids[5:7], IGNORE, *ids[8:12]]
    assert targets == expected
    assert targets[2] == 3, "the end of a cell is a target"


def test_loss_is_transformers_own(spec, cells, backbone):
    """Cell by cell through GPT2LMHeadModel with labels, averaged over tokens."""
    task, model, batch = AR(spec), backbone(True), cells([40, 60, 3])
    found = task(model, batch)
    model.model.set_attn_implementation("eager")
    rows = batch.ids.split([40, 60, 3])
    losses = [model.model(row[None], labels=row[None]).loss * (len(row) - 1) for row in rows]
    expected = torch.stack(losses).sum() / 100
    torch.testing.assert_close(found["loss"], expected, atol=1e-5, rtol=1e-6)
    assert int(found["n_targets"]) == 100
    assert found.keys() == {"loss", "n_targets"}


def test_the_prediction_of_a_token_does_not_see_it(spec, cells, backbone):
    """Losses of the tokens before position 20 do not change with what stands from 20 on."""
    model, batch = backbone(True), cells([40])

    def losses():
        logits = model.logits(model(batch)[:-1])
        return F.cross_entropy(logits, next_tokens(batch), reduction="none")

    before = losses()
    batch.ids[20] = 4 if batch.ids[20] != 4 else 5
    after = losses()
    torch.testing.assert_close(after[:19], before[:19])
    assert after[19] != before[19]


@pytest.mark.parametrize("width", [32, 256])
def test_starts_at_ln_v(width, cells, backbone):
    vocab = Vocab(tuple(f"g{i}" for i in range(5000)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})
    model = backbone(True, vocab=vocab, width=width)
    loss = AR(Spec(vocab, width))(model, cells([126] * 4, n_tokens=5000))["loss"]
    assert float(loss.detach()) == pytest.approx(math.log(5000), abs=0.15)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_evaluation_does_not_depend_on_the_chunk(chunk, spec, cells, backbone):
    task, model, batch = AR(spec, chunk=chunk).eval(), backbone(True).eval(), cells([40, 60])
    found = task(model, batch)
    targets = next_tokens(batch)
    real = targets != IGNORE
    logits = model.logits(model(batch)[:-1])[real].detach()
    targets = targets[real]
    assert float(found["loss"].detach()) == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    logits[:, :3] = -torch.inf
    best = logits.topk(10).indices == targets[:, None]
    assert float(found["top1"]) == pytest.approx(float(best[:, 0].float().mean()))
    assert float(found["top10"]) == pytest.approx(float(best.any(1).float().mean()))
    counts = np.where(np.arange(200) >= 3, np.arange(200) ** 2 + 1, 0)
    expected = -np.log((counts / counts.sum())[targets.numpy()]).mean()
    assert float(found["unigram_loss"]) == pytest.approx(expected, rel=1e-5)


def test_training_and_evaluation_give_the_same_loss(spec, cells, backbone):
    task, model, batch = AR(spec), backbone(True), cells([40, 60])
    loss = task(model, batch)["loss"].detach()
    torch.testing.assert_close(task.eval()(model, batch)["loss"].detach(), loss, atol=1e-6, rtol=1e-6)


def test_words_are_never_predicted_genes(backbone, cells):
    """tGPT's vocabulary has clinical words: a model that favors one is scored on its best gene."""
    vocab = Vocab(tuple(f"g{i}" for i in range(200)), {"pad": 0, "bos": 2, "eos": 3}, words=(1, 199))
    model, batch = backbone(True, vocab=vocab), cells([40], n_tokens=199)
    task = AR(Spec(vocab, 32)).eval()
    before = task(model, batch)["top1"]
    model.logits = lambda hidden, plain=model.logits: plain(hidden).index_fill(1, torch.tensor([1, 199, 0, 2]), 1e4)
    assert task(model, batch)["top1"] == before


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1]])
def test_cells_of_one_token_have_no_target(lengths, spec, backbone):
    n = sum(lengths)
    bounds = torch.arange(n + 1, dtype=torch.int32)
    batch = Batch(torch.full((n,), 5), torch.zeros(n, dtype=torch.int64), bounds, 1, torch.arange(n))
    model, task = backbone(True), AR(spec)
    found = task(model, batch)
    found["loss"].backward()
    assert float(found["loss"].detach()) == int(found["n_targets"]) == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(float(value) == 0 for value in task.eval()(model, batch).values())


def test_refused_chunk(spec):
    with pytest.raises(ValueError, match="chunk=0"):
        AR(spec, chunk=0)
