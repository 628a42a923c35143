"""Which cells and genes a perturbation asks about; users' mistakes are refused here, before any long work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pandas as pd

from scfm.analysis.cells import Cells, draw_rows, read_cells
from scfm.analysis.perturbation.operations import Ranking
from scfm.cells.source import did_you_mean
from scfm.genes.table import symbol_of
from scfm.inference.cell_input import CellInput
from scfm.tokenizer import Tokenizer
from scfm.vocab import Vocab


@dataclass(frozen=True)
class Question:
    """What the user asked; see :class:`~scfm.analysis.perturb.Perturb`.

    ``limit``: genes that are read of a cell; ``left``: (N,) bool, rows that may be drawn, None for all.
    """

    genes: str | list[str]
    jointly: bool
    pairs: bool
    anchor: str | None
    inserts: bool
    state: str | None
    start: str | None
    goal: str | None
    alt: list[str]
    donor: str | None
    where: str | None
    max_cells: int | None
    min_cells: int
    controls: int
    limit: int
    left: np.ndarray | None
    seed: int


@dataclass(frozen=True)
class Design:
    """Cells and perturbations.

    Attributes:
        cells: all that are read: those that are changed, and those of the other states.
        state: (n,) int64: 0 start, 1 goal, then the alternatives; -1 for none.
        states: names of the states.
        donors: (n,) int64 codes, all 0 where no donor is given.
        donor_names: by code; empty where no donor is given.
        changed: (m,) int64, places in ``cells`` of those that are changed.
        sets: genes that are changed together, one entry a perturbation.
        control: (P,) bool, perturbations that only stand for the null.
        detections: (V,) cells to be changed that have each gene as a token; for overexpression, that have counts of it.
        notes: what the user should know.
    """

    cells: Cells
    state: np.ndarray
    states: tuple[str, ...]
    donors: np.ndarray
    donor_names: tuple[str, ...]
    changed: np.ndarray
    sets: tuple[tuple[int, ...], ...]
    control: np.ndarray
    detections: np.ndarray
    notes: list[str] = field(default_factory=list)

    @property
    def has_goal(self) -> bool:
        """Whether shifts between states are asked for."""
        return len(self.states) > 1

    def tested(self, min_cells: int) -> np.ndarray:
        """Tokens of the genes that are changed alone, in cells enough, and are no controls."""
        single = [own[0] for own, control in zip(self.sets, self.control, strict=True) if len(own) == 1 and not control]
        return np.array([gene for gene in single if self.detections[gene] >= min_cells], dtype=np.int64)


def make_design(given: CellInput, asked: Question) -> Design:
    """Read the cells and list the perturbations.

    Raises:
        ValueError: states, donors or genes that cannot be asked about; one sentence each.
    """
    vocab = given.tokenizer.require_vocab()
    obs = _obs(given, asked)
    states = _states(asked, obs, str(given.cells.path))
    cells, changed_rows = _read(given, asked, obs, states)
    state = np.full(len(cells), -1, dtype=np.int64)
    if states:
        code = {name: i for i, name in enumerate(states)}
        state = np.array([code[str(value)] for value in cells.obs[asked.state]], dtype=np.int64)
    donors, names = _donors(asked, cells, state, states)
    changed = np.flatnonzero(np.isin(cells.rows, changed_rows))
    if len(changed) == 0:
        raise ValueError(f"{given.cells.path}: none of the cells to be changed has a gene that the model knows")
    detections = np.asarray((cells.counts[changed] > 0).sum(axis=0)).ravel()
    if not asked.inserts:
        read = [cells.read_genes(int(i)) for i in changed]
        detections = np.bincount(np.concatenate(read), minlength=len(vocab))
    notes: list[str] = []
    sets, control = _sets(given, asked, cells, changed, detections, notes)
    return Design(cells, state, states, donors, names, changed, sets, control, detections, notes)


def rankings(cells: Cells, tokenizer: Tokenizer) -> list[Ranking]:
    """The full ranking of each cell, with the counts behind it."""
    medians = getattr(tokenizer, "medians", None)
    out = []
    for i in range(len(cells)):
        genes = cells.ranked[i].astype(np.int64)
        counts = np.asarray(cells.counts[i, genes].todense(), dtype=np.float64).ravel()
        ranking = Ranking(genes, counts, cells.limit, float(cells.totals[i]), medians)
        out.append(replace(ranking, by_counts=np.array_equal(ranking.rank_again(counts).genes, genes)))
    return out


def name_set(genes: Sequence[int], vocab: Vocab) -> tuple[str, str]:
    """Token and symbol of a perturbation; genes that are changed together are joined by ``+``."""
    tokens = [vocab.tokens[gene] for gene in genes]
    return "+".join(tokens), "+".join(symbol_of(token) or token for token in tokens)


def find_genes(given: CellInput, names: Sequence[str]) -> np.ndarray:
    """(names,) token ids, -1 where a name leads to no token."""
    return given.tokenizer.harmonize(list(names), species=given.reading.species).columns.astype(np.int64)


def _obs(given: CellInput, asked: Question) -> pd.DataFrame:
    obs = given.cells.obs.assign(_row=np.arange(given.cells.n_cells))
    if asked.left is not None:
        obs = obs[asked.left]
    given.cells.require_obs([column for column in (asked.state, asked.donor) if column is not None])
    if asked.where is None:
        return obs
    try:
        kept = obs.query(asked.where, engine="python")
    except Exception as error:
        raise ValueError(f"where={asked.where!r} cannot be read ({error}); expected cell_type == 'B', say") from error
    if len(kept) == 0:
        raise ValueError(f"where={asked.where!r} leaves no cell of {given.cells.path}")
    return kept


def _states(asked: Question, obs: pd.DataFrame, path: str) -> tuple[str, ...]:
    if asked.state is None:
        if asked.start or asked.goal or asked.alt:
            raise ValueError("start, goal and alt are values of an obs column: name it with analysis.state=...")
        return ()
    if asked.start is None:
        raise ValueError(f"state={asked.state} needs analysis.start=..., the state whose cells are changed")
    if asked.start == asked.goal or asked.start in asked.alt or asked.goal in asked.alt:
        raise ValueError(f"start={asked.start}, goal={asked.goal}, alt={asked.alt} must be different states")
    if asked.goal is None and asked.alt:
        raise ValueError(f"alt={asked.alt} needs analysis.goal=..., the state that the shift is measured towards")
    states = (asked.start, *(() if asked.goal is None else (asked.goal,)), *asked.alt)
    have = obs[asked.state].astype(str)
    for name in states:
        n = int((have == name).sum())
        if n < 2:
            known = did_you_mean(name, sorted(have.unique()))
            raise ValueError(f"{path}: {n} cell(s) have {asked.state} == {name!r}; 2 or more are needed; {known}")
    return states


def _read(given: CellInput, asked: Question, obs: pd.DataFrame, states: tuple[str, ...]) -> tuple[Cells, np.ndarray]:
    """The cells to be changed, and of every other state as many as a centroid needs."""
    have = obs[asked.state].astype(str).to_numpy() if states else np.full(len(obs), "")
    rows, donors = obs["_row"].to_numpy(), None if asked.donor is None else obs[asked.donor].astype(str).to_numpy()
    drawn = []
    for name in states or ("",):
        own = have == name
        groups = None if donors is None else donors[own]
        drawn.append(draw_rows(rows[own], asked.max_cells, groups, asked.seed))
    cells = read_cells(given, np.unique(np.concatenate(drawn)))
    return replace(cells, limit=min(cells.limit, asked.limit)), drawn[0]


def _donors(
    asked: Question, cells: Cells, state: np.ndarray, states: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    if asked.donor is None:
        return np.zeros(len(cells), dtype=np.int64), ()
    codes, names = pd.factorize(cells.obs[asked.donor].astype(str), sort=True)
    for i, name in enumerate(states[:2]):
        if len(np.unique(codes[state == i])) < 2:
            raise ValueError(
                f"state {name!r} has cells of one donor (obs[{asked.donor!r}]); two or more are needed for a test over "
                "donors, and without analysis.donor=... cells are the units (pseudo-replicated)"
            )
    return codes.astype(np.int64), tuple(map(str, names))


def _sets(
    given: CellInput, asked: Question, cells: Cells, changed: np.ndarray, detections: np.ndarray, notes: list[str]
) -> tuple[tuple[tuple[int, ...], ...], np.ndarray]:
    """The perturbations, and which of them are controls."""
    enough = np.flatnonzero(detections >= max(asked.min_cells, 1))
    if asked.pairs and (asked.genes == "all" or asked.jointly or asked.anchor is not None):
        raise ValueError(
            "analysis.pairs=true changes each two genes of a list: name it with analysis.genes=[A,B,C] alone"
        )
    anchor = [] if asked.anchor is None else _known(given, [asked.anchor], detections, asked, notes)
    if asked.genes == "all":
        if asked.jointly:
            raise ValueError("analysis.jointly=true changes a list together; name it with analysis.genes=[GENE1,GENE2]")
        if len(enough) == 0:
            raise ValueError(f"no gene is read in {asked.min_cells} of the {len(changed)} cells; lower min_cells")
        wanted = [int(gene) for gene in enough]
    else:
        names = [asked.genes] if isinstance(asked.genes, str) else list(asked.genes)
        wanted = _known(given, names, detections, asked, notes)
    if asked.jointly:
        sets = [tuple(wanted)]
        whole = sum(bool(np.isin(wanted, cells.read_genes(int(i))).all()) for i in changed)
        notes.append(f"{whole:,} of {len(changed):,} cells have all {len(wanted)} genes; cells with any are changed.")
    elif anchor:
        others = [gene for gene in wanted if gene != anchor[0]]
        sets = [(anchor[0],), *((gene,) for gene in others), *((anchor[0], gene) for gene in others)]
    else:
        sets = [(gene,) for gene in wanted]
        sets += list(combinations(wanted, 2)) if asked.pairs else []
    controls = [] if asked.genes == "all" or asked.controls == 0 else _controls(asked, cells, changed, enough, sets)
    return (*sets, *controls), np.arange(len(sets) + len(controls)) >= len(sets)


def _known(
    given: CellInput, names: Sequence[str], detections: np.ndarray, asked: Question, notes: list[str]
) -> list[int]:
    """Tokens of the genes of a list; those that cannot be asked about are named, or refused where none is left."""
    ids = find_genes(given, names)
    unknown = [name for name, gene in zip(names, ids, strict=True) if gene < 0]
    absent = [name for name, gene in zip(names, ids, strict=True) if gene >= 0 and not detections[gene]]
    reasons = [f"{', '.join(unknown)} not in the vocabulary of the checkpoint"] if unknown else []
    if not asked.inserts and absent:
        reasons.append(f"{', '.join(absent)} in no cell that is changed")
    left = [int(gene) for gene in dict.fromkeys(ids) if gene >= 0 and (asked.inserts or detections[gene])]
    if not left:
        raise ValueError(f"no gene is left to perturb: {'; '.join(reasons) or 'the list is empty'}")
    if reasons:
        notes.append(f"Left out: {'; '.join(reasons)}.")
    few = [gene for gene in left if detections[gene] < asked.min_cells]
    if few and not asked.inserts:
        tokens = given.tokenizer.require_vocab().tokens
        notes.append(f"Fewer than {asked.min_cells} cells, so no p value: {', '.join(tokens[gene] for gene in few)}.")
    return left


def _controls(
    asked: Question, cells: Cells, changed: np.ndarray, enough: np.ndarray, sets: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Perturbations of other genes of about the same mean rank, each gene of a set replaced by such a one."""
    rank, count = np.zeros(cells.counts.shape[1]), np.zeros(cells.counts.shape[1])
    for i in changed:
        genes = cells.read_genes(int(i))
        rank[genes] += np.arange(len(genes)) / max(len(genes), 1)
        count[genes] += 1
    mean = np.divide(rank, count, out=np.full(len(rank), 0.5), where=count > 0)
    pool = np.setdiff1d(enough, [gene for genes in sets for gene in genes])
    each = max(5, -(-asked.controls // len(sets)))
    rng, made = np.random.default_rng(asked.seed), dict[tuple[int, ...], None]()
    for group in sets:
        near = [pool[np.argsort(np.abs(mean[pool] - mean[gene]), kind="stable")[: 4 * each]] for gene in group]
        for _ in range(each if len(pool) >= len(group) else 0):
            chosen: list[int] = []
            for candidates in near:
                left = np.setdiff1d(candidates, chosen)
                chosen.append(int(rng.choice(left if len(left) else np.setdiff1d(pool, chosen))))
            made[tuple(chosen)] = None
    return list(made)
