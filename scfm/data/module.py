"""The LightningDataModule: a store, its split, and the loaders over it."""

import logging
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
from scipy.sparse import csr_matrix

from scfm.data.composed_order import ComposedOrder
from scfm.data.data_plan import DataPlan
from scfm.data.loader import CellLoader, PackedCells
from scfm.data.mixture_order import MixtureOrder
from scfm.data.order import Order
from scfm.data.shuffle import Shuffle
from scfm.data.split import Split, split_rows, take_calibration
from scfm.store.mix import MixedStore
from scfm.store.token_store import TokenStore
from scfm.types import Needs, Sampling

log = logging.getLogger(__name__)


class CellData(pl.LightningDataModule):
    """Packed micro-batches of a token store.

    Args:
        store: the cells, of one store or of a mix.
        tokens_per_batch: the budget of one micro-batch on one device, in tokens: the knob against out-of-memory.
        tokens_per_step: tokens of one optimizer step over all devices, reached by accumulation; null means one
            micro-batch per device. Fixed, it makes training independent of the number of devices.
        auto_budget: find the largest ``tokens_per_batch`` that fits the device before training.
        max_length: cut cells to this many tokens (the most expressed genes stay); null reads them whole.
        val: share of cells for validation.
        test: share of cells kept for the test.
        group: obs column whose groups stay together; ``auto`` takes the store's own, null splits cell by cell.
        split_seed: seed of the split, apart from the training seed so that seeds can vary on one split.
        workers: processes that read ahead.
        seed: seed of the shuffling.
        shuffle: ``cells``, ``blocks`` (for a corpus much larger than the memory) or ``stored`` (for a store that was
            written shuffled); see :class:`scfm.data.shuffle.Shuffle`.
        shuffle_block: neighboring cells that stay together on the way into the pool.
        shuffle_pool: cells that are mixed together.
        unseen: what to do when a label occurs in validation or test but not in training.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        tokens_per_batch: int = 8192,
        tokens_per_step: int | None = None,
        auto_budget: bool = False,
        max_length: int | None = None,
        val: float = 0.1,
        test: float = 0.1,
        group: str | None = "auto",
        split_seed: int = 0,
        workers: int = 0,
        seed: int = 0,
        shuffle: Literal["cells", "blocks", "stored"] = "cells",
        shuffle_block: int = 64,
        shuffle_pool: int = 65_536,
        unseen: str = "refuse",
    ) -> None:
        super().__init__()
        if unseen not in ("refuse", "ignore"):
            raise ValueError(f"data.unseen={unseen!r}; expected refuse or ignore")
        if tokens_per_step is not None and tokens_per_step % tokens_per_batch:
            raise ValueError(
                f"data.tokens_per_step={tokens_per_step} must be a multiple of data.tokens_per_batch={tokens_per_batch}"
            )
        self.store, self.max_length, self.workers, self.seed = store, max_length, workers, seed
        self.tokens_per_step = tokens_per_step
        self.permutation = Shuffle(shuffle, shuffle_block, shuffle_pool)
        if shuffle == "stored" and not store.shuffled:
            raise ValueError(f"data.shuffle=stored: {store.path} was not written with scfm-prepare shuffle=true")
        self.auto_budget = auto_budget
        self.unseen = unseen
        self.lengths = store.lengths if max_length is None else np.minimum(store.lengths, max_length)
        self.group, self.split_seed = store.group if group == "auto" else group, split_seed
        self.plan = DataPlan(_split(store, val=val, test=test, column=self.group, seed=split_seed), tokens_per_batch)

    @property
    def split(self) -> Split:
        """Rows of the store by part."""
        return self.plan.split

    def planned(self, needs: Needs) -> "CellData":
        """The same cells for a head: batches carry what it needs, composed as it wants. This module stays as it is.

        Raises:
            ValueError: a column that the store does not have, a class that only held-out cells have, no counts, or
                no second modality.
        """
        for label in needs.labels:
            if label not in self.store.columns:
                have = ", ".join(self.store.columns) or "none"
                raise ValueError(
                    f"the store {self.store.path} has no obs column {label!r}; it has {have}. "
                    f"Prepare it with obs='[{label}]'"
                )
            if needs.learned is None or label in needs.learned:
                self._check_unseen(label)
        for kind in needs.fields:
            self.store.field(kind, self.split.train[:1])
        data = self.with_counts() if needs.counts else self
        return data._with_plan(labels=needs.labels, sampling=needs.sampling, fields=needs.fields)

    def with_counts(self) -> "CellData":
        """The same, in batches that carry the counts behind their tokens.

        Raises:
            ValueError: the store keeps none.
        """
        self.store.counts(self.split.train[:1])
        return self._with_plan(counts=True)

    def calibrated(self, share: float) -> "CellData":
        """The same with a share of the cells kept for calibration, out of training and validation."""
        groups = None if self.group is None else whole_groups(self.store, self.group)
        return self._with_plan(split=take_calibration(self.split, share, seed=self.split_seed, groups=groups))

    def budgeted(self, tokens_per_batch: int) -> "CellData":
        """The same in micro-batches of another size."""
        return self._with_plan(tokens_per_batch=tokens_per_batch)

    def _with_plan(self, **changes: Any) -> "CellData":
        other = copy(self)
        other.plan = replace(self.plan, **changes)
        return other

    @property
    def longest(self) -> int:
        """Tokens of the longest cell, after cutting."""
        return int(self.lengths.max())

    def micro_batches(self, world: int) -> int:
        """Micro-batches of one optimizer step over all ``world`` processes.

        Raises:
            ValueError: ``tokens_per_step`` does not divide over the processes.
        """
        if self.tokens_per_step is None:
            return world
        wanted = self.tokens_per_step // self.plan.tokens_per_batch
        if wanted % world:
            raise ValueError(
                f"data.tokens_per_step={self.tokens_per_step} makes {wanted} micro-batches of "
                f"{self.plan.tokens_per_batch} tokens, which do not divide over {world} processes; change "
                "data.tokens_per_batch"
            )
        return wanted

    def order(self, rows: np.ndarray, *, multiple: int, shuffle: bool) -> Order:
        """The micro-batches of some rows of the store, composed as the head wants them.

        Raises:
            ValueError: they are to be weighted, or read in blocks, and composed by the head as well.
        """
        if self.plan.sampling is not None:
            return self._composed(rows, self.plan.sampling, multiple=multiple, shuffle=shuffle)
        store, lengths = self.store, self.lengths[rows]
        cutting = {"tokens": self.plan.tokens_per_batch, "multiple": multiple, "seed": self.seed}
        if shuffle and isinstance(store, MixedStore) and store.weights is not None:
            return MixtureOrder(
                rows, lengths, store.sources[rows], store.weights, permutation=self.permutation, **cutting
            )
        return Order(rows, lengths, shuffle=shuffle, permutation=self.permutation, **cutting)

    def _composed(self, rows: np.ndarray, sampling: Sampling, *, multiple: int, shuffle: bool) -> ComposedOrder:
        if self.permutation.kind != "cells" or (isinstance(self.store, MixedStore) and self.store.weights is not None):
            raise ValueError(
                "this head chooses the cells of its micro-batches itself: data.shuffle=cells and store.weights=null"
            )
        groups = np.zeros(len(rows), dtype=np.int64) if sampling.by is None else self.store.obs(sampling.by)[rows]
        cutting = {"tokens": self.plan.tokens_per_batch, "multiple": multiple, "seed": self.seed}
        return ComposedOrder(rows, self.lengths[rows], groups, sampling, shuffle=shuffle, **cutting)

    def loader(self, rows: np.ndarray, *, held_out: bool = True, alone: bool = False) -> CellLoader:
        """A loader over some rows: this process's share among those of the trainer, or, ``alone``, all of them."""
        trainer = None if alone else self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        multiple = world if held_out else self.micro_batches(world)
        return CellLoader(
            PackedCells(
                self.store, self.plan.labels, self.max_length, counts=self.plan.counts, fields=self.plan.fields
            ),
            self.order(rows, multiple=multiple, shuffle=not held_out),
            rank=rank,
            world=world,
            held_out=held_out,
            workers=self.workers,
            pin=pin,
        )

    def state_dict(self) -> dict[str, str]:
        """Which cells a checkpoint was trained on."""
        return {"store": self.store.fingerprint}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """Refuse to go on with other cells.

        Raises:
            ValueError: the checkpoint is of another store.
        """
        before = state_dict.get("store", self.store.fingerprint)
        if before != self.store.fingerprint:
            raise ValueError(
                f"the checkpoint was trained on the cells {before[:12]}, the store {self.store.path} has "
                f"{self.store.fingerprint[:12]}: a run is resumed on its own store; begin another run with another "
                "name=..."
            )

    def setup(self, stage: str) -> None:
        """Have all ranks compose by what the first one found: neighbors that nearly tie differ between devices."""
        if self.plan.sampling is not None and self.trainer is not None:
            self.plan = replace(self.plan, sampling=self.trainer.strategy.broadcast(self.plan.sampling))

    def train_dataloader(self) -> CellLoader:
        """Shuffled anew each epoch."""
        return self.loader(self.split.train, held_out=False)

    def val_dataloader(self) -> CellLoader | list[CellLoader]:
        """The same micro-batches, and masks, at every validation."""
        return self.loader(self.split.val, held_out=True) if len(self.split.val) else []

    def test_dataloader(self) -> CellLoader | list[CellLoader]:
        """The held-out test cells."""
        return self.loader(self.split.test, held_out=True) if len(self.split.test) else []

    def token_counts(self, length: int | None = None) -> np.ndarray:
        """(V,) int64: how often each token occurs in the training cells, among their first ``length`` tokens."""
        limit = self._limit(length)
        counts = np.zeros(len(self.store.vocab), dtype=np.int64)
        for rows in np.array_split(self.split.train, max(1, len(self.split.train) // 100_000)):
            counts += np.bincount(self.store.gather(rows, limit).values, minlength=len(counts))
        return counts

    def _limit(self, length: int | None) -> int | None:
        known = [limit for limit in (self.max_length, length) if limit is not None]
        return min(known) if known else None

    def token_presence(self, n_cells: int, length: int | None = None, seed: int = 0) -> csr_matrix:
        """N x V, 1 where one of ``n_cells`` training cells, drawn at random, holds the token among its first ones."""
        rows = self.split.train
        if len(rows) > n_cells:
            rows = np.sort(np.random.default_rng(seed).choice(rows, n_cells, replace=False))
        cells = self.store.gather(rows, self._limit(length))
        ones = np.ones(len(cells.values), dtype=np.float32)
        return csr_matrix((ones, cells.values, cells.offsets), shape=(len(rows), len(self.store.vocab)))

    def classes(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes of every categorical obs column."""
        named = {column: self.store.categories(column) for column in self.store.columns}
        return {column: names for column, names in named.items() if names is not None}

    def fields(self) -> dict[str, tuple[str, ...]]:
        """Names of the features of each second modality that the store keeps."""
        return {kind: field.names for kind, field in self.store.fields.items()}

    def class_counts(self) -> dict[str, np.ndarray]:
        """Labeled training cells of each class, by categorical obs column."""
        return {column: self._count(column, self.split.train) for column in self.classes()}

    def file_cells(self) -> np.ndarray | None:
        """(F,) int64: training cells of each file of the store; None where it does not tell."""
        return self._count("file", self.split.train) if self.store.files else None

    def _count(self, column: str, rows: np.ndarray) -> np.ndarray:
        codes = self.store.obs(column)[rows]
        return np.bincount(codes[codes >= 0], minlength=len(self.store.categories(column) or ()))

    def _check_unseen(self, label: str) -> None:
        names = self.store.categories(label)
        if names is None:
            return
        held_out = np.concatenate([self.split.val, self.split.test])
        unseen = (self._count(label, self.split.train) == 0) & (self._count(label, held_out) > 0)
        if not unseen.any():
            return
        which = ", ".join(name for name, missing in zip(names, unseen, strict=True) if missing)
        message = f"the label {label!r} has classes that no training cell has: {which} (split by {self.split.by})"
        if self.unseen == "refuse":
            raise ValueError(
                f"{message}; a model cannot learn them. Change the split (data.group, data.split_seed, data.val, "
                "data.test), or set data.unseen=ignore to count them as errors"
            )
        log.warning("%s; they will be counted as errors.", message)


def _split(store: TokenStore, *, val: float, test: float, column: str | None, seed: int) -> Split:
    if column is None:
        return split_rows(len(store), val=val, test=test, seed=seed)
    if store.categories(column) is None:
        have = ", ".join(name for name in store.columns if store.categories(name) is not None) or "none"
        raise ValueError(f"data.group={column!r} is not a categorical obs column of {store.path}; it has {have}")
    return split_rows(len(store), val=val, test=test, seed=seed, group=column, groups=whole_groups(store, column))


def whole_groups(store: TokenStore, column: str) -> np.ndarray:
    """(n,) int64: the group of each cell; one without a group is a group of its own, and that is said."""
    groups = store.obs(column)
    missing = groups < 0
    if not missing.any():
        return groups
    log.warning("%d of %d cells have no %s: each is a group of its own.", int(missing.sum()), len(groups), column)
    groups = groups.copy()
    groups[missing] = int(groups.max()) + 1 + np.arange(int(missing.sum()))
    return groups
