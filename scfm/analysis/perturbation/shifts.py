"""Runs perturbations part by part: each row is one perturbation of one cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from scfm.analysis.perturbation.design import Design
from scfm.analysis.perturbation.operations import Change, GeneList, Ranking
from scfm.analysis.perturbation.reader import Reader
from scfm.metrics.perturbation import Centroids, cosine, permute_labels, projection, state_shifts

#: Genes of the changed lists that are held at once.
HELD = 2_000_000

#: A perturbation of a cell: its number, what is read after it, and how many genes the original loses at its end.
Changed: TypeAlias = tuple[int, GeneList, int]


@dataclass(frozen=True)
class States:
    """What a changed cell is compared with.

    Attributes:
        embeddings: (n, D) float64 of all cells, unchanged.
        centroids: by state; None without a goal.
        center: whether the mean of start and goal cells is subtracted first.
        labels: (K, n) bool, permuted labels (True: goal) of start and goal cells.
        permuted: the K pairs of sums (K, 2, D) and sizes (K, 2) of the permuted labels.
    """

    embeddings: np.ndarray
    centroids: Centroids | None
    center: bool
    labels: np.ndarray
    permuted: Centroids


def make_states(design: Design, embeddings: np.ndarray, *, center: bool, permutations: int, seed: int) -> States:
    """Centroids of the states and of permuted labels, before anything is changed."""
    n, width = embeddings.shape
    none = Centroids(np.zeros((0, 2, width)), np.zeros((0, 2)))
    if not design.has_goal:
        return States(embeddings, None, center, np.zeros((0, n), bool), none)
    pair = np.flatnonzero((design.state == 0) | (design.state == 1))
    donors = design.donors[pair] if design.donor_names else None
    drawn = permute_labels(design.state[pair] == 1, donors, permutations, seed)
    labels = np.zeros((permutations, n), dtype=bool)
    labels[:, pair] = drawn
    goal = drawn.astype(float) @ embeddings[pair]
    whole = embeddings[pair].sum(axis=0)
    size = drawn.sum(axis=1)
    permuted = Centroids(np.stack([whole - goal, goal], axis=1), np.stack([len(pair) - size, size], axis=1))
    return States(embeddings, Centroids.add_up(embeddings, design.state, len(design.states)), center, labels, permuted)


@dataclass(frozen=True)
class Runner:
    """One model, one operation.

    Attributes:
        design: cells and perturbations.
        rankings: of all cells.
        change: the operation.
        reader: embeds lists of genes.
        states: what changed cells are compared with.
        effects: whether the states of the remaining genes are compared too.
    """

    design: Design
    rankings: Sequence[Ranking]
    change: Change
    reader: Reader
    states: States
    effects: bool = False

    def count(self) -> tuple[int, int]:
        """Perturbations that need the model, and their tokens."""
        frame = len(self.reader.before) + len(self.reader.after)
        forwards = tokens = 0
        for cell in self.design.changed:
            changed = self._changed(int(cell))
            forwards += len(changed)
            tokens += sum(len(read.genes) + frame for _, read, _ in changed)
        return forwards, tokens

    def run(self, cells: np.ndarray, advance: Callable[[int], None]) -> dict[str, np.ndarray]:
        """All perturbations of some cells.

        Args:
            cells: places among the design's cells.
            advance: told of finished cells.

        Returns:
            Row by row ``set, cell, rank, n, dropped, cosine, shifts (rows, S), projection``; for the label null
            ``label_set, label_donor, label_n`` and ``label_sum (pairs, K)``; with effects ``effect_*``.
        """
        rows: list[dict[str, np.ndarray]] = []
        held: list[tuple[int, list[Changed]]] = []
        size = 0
        for cell in cells:
            changed = self._changed(int(cell))
            held.append((int(cell), changed))
            size += sum(len(read.genes) for _, read, _ in changed)
            if size > HELD or cell == cells[-1]:
                rows += self._read(held)
                advance(len(held))
                held, size = [], 0
        joined = _join(rows, len(self.design.states), self.states.labels.shape[0], self.effects)
        if "label" in joined:
            donors = self.design.donors[joined["cell"]]
            joined |= _sums("label", ("set", "donor"), joined["set"], donors, joined.pop("label"))
        if self.effects:
            effect = joined.pop("effect")
            values = np.stack([effect, effect**2], axis=1)
            joined |= _sums("effect", ("set", "gene"), joined.pop("effect_set"), joined.pop("effect_gene"), values)
        return joined

    def _changed(self, cell: int) -> list[Changed]:
        ranking, inserts, out = self.rankings[cell], self.change.op == "overexpress", []
        here = set(ranking.read.tolist())
        alone = {own[0] for own in self.design.sets if len(own) == 1}
        for number, genes in enumerate(self.design.sets):
            have = sum(gene in here for gene in genes)
            pair = len(genes) == 2 and alone.issuperset(genes)  # beside the two alone: both, or none
            if not inserts and (have == 0 or (pair and have < 2)):
                continue
            changed = self.change.apply(ranking, genes)
            if changed is not None:
                out.append((number, *changed))
        return out

    def _read(self, held: list[tuple[int, list[Changed]]]) -> list[dict[str, np.ndarray]]:
        """Rows of some cells; originals are read with them, each length once."""
        lists: list[GeneList] = []
        for cell, changed in held:
            whole = self.rankings[cell].listed
            lists += [whole.first(len(whole.genes) - dropped) for _, _, dropped in changed]
            lists += [read for _, read, _ in changed]
        if not lists:
            return []
        embedded = self.reader.embed(lists)
        rows, place = [], 0
        for cell, changed in held:
            m = len(changed)
            if m:
                h, new = embedded[place : place + m], embedded[place + m : place + 2 * m]
                row = self._scores(cell, changed, h, new)
                if self.effects:
                    row |= self._effects(changed, lists[place : place + 2 * m])
                rows.append(row)
            place += 2 * m
        return rows

    def _scores(self, cell: int, changed: list[Changed], h: np.ndarray, new: np.ndarray) -> dict[str, np.ndarray]:
        numbers = np.array([number for number, _, _ in changed])
        ranking, states, own = self.rankings[cell], self.states, int(self.design.state[cell])
        place = {int(gene): rank for rank, gene in enumerate(ranking.read)}
        first = [min((place[g] for g in self.design.sets[i] if g in place), default=-1) for i in numbers]
        row = {
            "set": numbers,
            "cell": np.full(len(numbers), cell),
            "rank": np.array(first),
            "n": np.full(len(numbers), len(ranking.read)),
            "dropped": np.array([dropped for _, _, dropped in changed]),
            "cosine": cosine(new, h),
        }
        if states.centroids is None:
            return row
        embedding = states.embeddings[cell]
        centroids = states.centroids.without(embedding, own)
        middle = states.centroids.middle(embedding, own) if states.center else None
        row["shifts"] = state_shifts(h, new, centroids, middle)
        row["projection"] = projection(h, new, centroids[0], centroids[1])
        row["label"] = self._label_shifts(cell, h, new, middle)
        return row

    def _label_shifts(self, cell: int, h: np.ndarray, new: np.ndarray, middle: np.ndarray | None) -> np.ndarray:
        """(m, K): shifts towards the goal of permuted labels; the cell itself is in neither centroid."""
        states = self.states
        goal = states.labels[:, cell]
        sums = states.permuted.sums[:, 1] - goal[:, None] * states.embeddings[cell]
        centroids = sums / np.maximum(states.permuted.sizes[:, 1] - goal, 1)[:, None]
        return state_shifts(h, new, centroids, middle)

    def _effects(self, changed: list[Changed], lists: list[GeneList]) -> dict[str, np.ndarray]:
        """1 - cosine between the states of each remaining gene, aligned by gene and not by place."""
        m = len(changed)
        states = self.reader.states([one.genes for one in lists])
        numbers, affected, effect = [], [], []
        for k, (number, read, _) in enumerate(changed):
            genes = read.genes[: len(states[m + k])]  # those that the layers read
            before = {int(gene): i for i, gene in enumerate(lists[k].genes[: len(states[k])])}
            kept = [i for i, g in enumerate(genes) if int(g) in before and int(g) not in self.design.sets[number]]
            old = states[k][[before[int(genes[i])] for i in kept]]
            effect.append(1 - cosine(states[m + k][kept], old))
            affected.append(genes[kept])
            numbers.append(np.full(len(kept), number))
        return {
            "effect_set": np.concatenate(numbers),
            "effect_gene": np.concatenate(affected),
            "effect": np.concatenate(effect),
        }


def _sums(
    name: str, keys: tuple[str, str], one: np.ndarray, other: np.ndarray, values: np.ndarray
) -> dict[str, np.ndarray]:
    """Sums of (rows, K) values, and numbers of rows, by two keys."""
    pairs, place = np.unique(np.stack([one, other], axis=1), axis=0, return_inverse=True)
    total = np.zeros((len(pairs), values.shape[1]))
    np.add.at(total, place.ravel(), values)
    count = np.bincount(place.ravel(), minlength=len(pairs))
    own = {f"{name}_{keys[0]}": pairs[:, 0], f"{name}_{keys[1]}": pairs[:, 1]}
    return {**own, f"{name}_n": count, f"{name}_sum": total}


def _join(rows: list[dict[str, np.ndarray]], n_states: int, n_labels: int, effects: bool) -> dict[str, np.ndarray]:
    """Rows of a part under fixed names and types, also where there is none."""
    whole = {"set": np.int64, "cell": np.int64, "rank": np.int64, "n": np.int64, "dropped": np.int64}
    kinds: dict[str, type] = {**whole, "cosine": np.float64}
    if n_states > 1:
        kinds |= {"projection": np.float64}
    if effects:
        kinds |= {"effect_set": np.int64, "effect_gene": np.int64, "effect": np.float64}
    out: dict[str, np.ndarray] = {
        name: np.concatenate([np.empty(0, kind), *[row[name] for row in rows]]).astype(kind)
        for name, kind in kinds.items()
    }
    if n_states > 1:
        out["shifts"] = np.concatenate([np.empty((0, n_states)), *[row["shifts"] for row in rows]])
        out["label"] = np.concatenate([np.empty((0, n_labels)), *[row["label"] for row in rows]]).astype(np.float32)
    return out
