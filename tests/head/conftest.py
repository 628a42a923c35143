"""A tiny transformer and made-up cells of two types along a process, in three batches."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from scfm.batch import Batch
from scfm.data.packing import pack
from scfm.head.survey import Survey
from scfm.model.backbone import Backbone
from scfm.model.cached import CachedBackbone
from scfm.model.pooling import embed
from scfm.types import Ragged, Spec
from scfm.vocab import Vocab

N_GENES = 40
VOCAB = Vocab(
    ("<pad>", "<mask>", "<cls>", "<eos>", *(f"G{i}" for i in range(N_GENES))), {"pad": 0, "mask": 1, "cls": 2, "eos": 3}
)


@dataclass
class Cells:
    """Cells in the order of a made-up store: time t in [0, 1] moves genes up and down, the batch moves others."""

    tokens: list[np.ndarray]
    counts: list[np.ndarray]
    obs: dict[str, np.ndarray]

    def batch(self, rows, seed=0, counts=False) -> Batch:
        rows = np.asarray(rows)
        packed = pack(
            self.ragged(rows),
            rows,
            obs={name: values[rows] for name, values in self.obs.items()},
            seed=seed,
        )
        if not counts:
            return packed

        return packed.with_token_field("counts", torch.from_numpy(self.token_counts(rows)))

    def token_counts(self, rows) -> np.ndarray:
        return np.concatenate([self.counts[row] for row in rows])

    def __len__(self):
        return len(self.tokens)

    def ragged(self, rows) -> Ragged:
        offsets = np.concatenate([[0], np.cumsum([len(self.tokens[row]) for row in rows])])
        return Ragged(np.concatenate([self.tokens[row] for row in rows]), offsets)

    def survey(self, backbone, train=None) -> Survey:
        with torch.inference_mode():
            embedding = embed(backbone.eval(), self.batch(range(len(self))), VOCAB).numpy().copy()
        return Survey(
            rows=np.arange(len(self)),
            train=np.ones(len(self), dtype=bool) if train is None else train,
            embedding=embedding,
            obs=dict(self.obs),
            names=[f"cell{i}" for i in range(len(self))],
            tokens=self.ragged,
            counts=self.token_counts,
        )


def made_cells(n=120, seed=0) -> Cells:
    rng = np.random.default_rng(seed)
    time, batch = rng.random(n), np.arange(n) % 3
    base, slope = rng.normal(0, 0.5, N_GENES), np.linspace(-3, 3, N_GENES)
    effect = rng.normal(0, 0.5, (3, N_GENES))
    tokens, counts = [], []
    for t, b in zip(time, batch, strict=True):
        x = rng.poisson(np.exp(1 + base + slope * (2 * t - 1) * 0.7 + effect[b]))
        ranked = np.lexsort([np.arange(N_GENES), -x])[: max(8, (x > 0).sum())]
        tokens.append(np.array([2, *(ranked + 4), 3]))
        counts.append(np.array([0, *x[ranked], 0], dtype=np.float32))
    kind = (time > 0.5).astype(np.int64)
    stage = np.minimum((time * 4).astype(np.int64), 3)
    fate = np.full(n, -1)
    fate[time > 0.85] = np.where(np.arange(n) % 2, 1, 0)[time > 0.85]
    obs = {
        "batch": batch.astype(np.int64),
        "cell_type": kind,
        "time": time.astype(np.float32),
        "stage": stage,
        "fate": fate,
    }
    return Cells(tokens, counts, obs)


CLASSES = {
    "batch": ("b0", "b1", "b2"),
    "cell_type": ("early", "late"),
    "stage": ("d0", "d1", "d2", "d3"),
    "fate": ("left", "right"),
}


@pytest.fixture(scope="session")
def cells() -> Cells:
    return made_cells()


@pytest.fixture
def spec() -> Spec:
    counts = {name: np.full(len(names), 10) for name, names in CLASSES.items()}
    return Spec(VOCAB, 32, CLASSES, n_cells=120, class_counts=counts)


@pytest.fixture
def tiny() -> Backbone:
    torch.manual_seed(0)
    return Backbone(VOCAB, causal=False, layers=1, width=32, heads=2, feedforward=32, positions=64, dropout=0.0).eval()


@pytest.fixture
def exercise(cells, spec):
    """Train a head for some steps; save and load it; check that a cell's projection is its own affair."""

    def run(make, backbone, steps=30, counts=False, rows=None, rate=5e-3):
        head = make(spec)
        head.prepare(cells.survey(backbone))
        parameters = [*head.parameters(), *backbone.parameters()]
        optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=rate)
        head.train()
        fixed = cells.batch(range(60), seed=1000, counts=counts)
        before = head(backbone, fixed)["loss"].item()
        for step in range(steps):
            drawn = np.random.default_rng(step).permutation(rows if rows is not None else len(cells))[:48]
            loss = head(backbone, cells.batch(drawn, seed=step, counts=counts))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after = head(backbone, fixed)["loss"].item()
        check_projection(head.eval(), make(Spec(VOCAB, 32, CLASSES)), backbone.eval(), cells)
        return head, before, after

    return run


def check_projection(head, fresh, backbone, cells):
    """The head restored strictly from its state gives the same, and neither company nor labels change a cell."""
    fresh.load_state_dict(head.state_dict(), strict=True)
    fresh.eval()
    with torch.inference_mode():
        many = head.predict(backbone, cells.batch(range(20)))
        again = fresh.predict(backbone, cells.batch(range(20)))
        alone = head.predict(backbone, replace_obs(cells.batch([7, 90])))
        cached = CachedBackbone(backbone)
        embed(cached, head.view(cells.batch(range(20))), VOCAB)
        beside_embedding = head.predict(cached, cells.batch(range(20)))
    assert again
    for name in again:
        torch.testing.assert_close(many[name], again[name])
        torch.testing.assert_close(many[name], beside_embedding[name])
        torch.testing.assert_close(many[name][7], alone[name][0], atol=1e-5, rtol=1e-4)


def replace_obs(batch):
    from dataclasses import replace

    return replace(batch, obs={})
