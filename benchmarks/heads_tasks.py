"""The tasks of heads.py: what is prepared, fine-tuned and judged for each set of real cells."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor

from scfm.cli import lenient
from scfm.demo import call as command
from scfm.evaluate.annotation import unknown_auroc
from scfm.evaluate.baseline import embed as baseline_embedding
from scfm.evaluate.expression import Expression, read_expression
from scfm.evaluate.probe import linear, majority, nearest
from scfm.evaluate.structure import neighbor_overlap
from scfm.head.annotation.score import accuracy, confusion, macro_f1
from scfm.head.trajectory.diffusion import diffusion_pseudotime, extreme_cell, neighbour_graph

#: Human files of at least 6,900 genes: what the backbone is pretrained on, without labels.
CORPUS = (
    "breast_tnbc_cid4465", "crohn_gut_scp1884_1020", "hao_pbmc_small", "nsclc_dendritic_rogue", "pbmc3k",
    "placenta_cellxgene_220", "zheng_sorted_pbmc_3500", "pbmc_4protocol", "pbmc_7study", "sc_mixology_cell_lines",
    "skin_ctcl_hc", "celltypist_sample", "hcl_fetal_thymus2", "pbmc_frozen_donor_a", "pisces_pbmc",
)  # fmt: skip
QUIET = ("trainer.accelerator=cpu", "callbacks.progress=null", "trainer.enable_progress_bar=false", "overwrite=true")

Measure = Callable[[dict[str, Any], Callable[[], dict[str, float]]], None]


def call(arguments: list[str]) -> Any:
    """Run one command as its command line would."""
    return command([arguments[0], *lenient(arguments[1:])])


@dataclass(frozen=True)
class Set:
    """Real cells with a truth.

    Attributes:
        task: what they are for.
        files: one or more, without .h5ad; several are batches of one set, on their common genes.
        label: obs column of the truth.
        group: obs column that is kept whole in splits, or that holds the batches.
        species: of the gene names.
        root: for pseudotime, the lowest truth counts as the root type; -1 in the truth is no truth.
        settings: shares of the labels.
        names: one name for the same label in several files; "" for none.
    """

    task: str
    files: tuple[str, ...]
    label: str
    group: str | None = None
    species: str = "human"
    settings: tuple[float, ...] = (1.0,)
    names: dict[str, str] = field(default_factory=dict)


#: What pbmc3k and the sorted cells call the same types.
PBMC = {
    "CD4TCM": "Memory CD4 T", "CD4TN": "Naive CD4 T", "CD4Treg": "CD4 Treg", "CD8TN": "CD8 T",
    "Monocyte": "CD14+ Mono", "unknown": "",
}  # fmt: skip

SETS = {
    "zheng": Set("annotation", ("zheng_sorted_pbmc_3500",), "cell_type", settings=(1.0, 0.1)),
    "breast": Set("annotation", ("breast_tnbc_cid4465",), "cell_type_minor", settings=(1.0, 0.1)),
    "crohn": Set("annotation", ("crohn_gut_scp1884_1020",), "cell_type", "donor"),
    "kang": Set("annotation", ("kang_pbmc_ctrl",), "cell_type", "donor", settings=(1.0, 0.1)),
    "zheng_unknown": Set("rejection", ("zheng_sorted_pbmc_3500",), "cell_type"),
    "pancreas": Set("trajectory", ("pancreas_endocrinogenesis_739_7192g",), "stage_rank", species="mouse"),
    "pancreas_root": Set("pseudotime", ("pancreas_endocrinogenesis_739_7192g",), "stage_rank", species="mouse"),
    "paul15_root": Set("pseudotime", ("paul15_2730",), "ery_rank", species="mouse"),
    "sc_mixology": Set("integration", ("sc_mixology_cell_lines",), "cell_line", "batch"),
    "pbmc3k+zheng": Set("integration", ("pbmc3k", "zheng_sorted_pbmc_3500"), "cell_type", "batch", names=PBMC),
}


class Bench:
    """Where cells, stores, checkpoints and fine-tunes lie.

    Args:
        data: folder of the .h5ad files.
        output: folder of everything that is made.
        checkpoint: a pretrained one; None pretrains experiment=atlas_small.
    """

    def __init__(self, data: Path, output: Path, checkpoint: Path | None) -> None:
        self.data, self.output, self._checkpoint = data, output, checkpoint

    @cached_property
    def checkpoint(self) -> Path:
        """The pretrained backbone, made where it is not there."""
        path = self._checkpoint or self.output / "atlas_small/checkpoints/last.ckpt"
        if not path.is_file():
            store = self.output / "stores/atlas_small"
            files = ",".join(str(self.file(name)) for name in CORPUS)
            if not store.exists():
                call(["prepare", f"input=[{files}]", f"output={store}", "empty=drop", "on_duplicate_cells=number"])
            call(["train", "experiment=atlas_small", f"store={store}", f"output={path.parents[1]}", *QUIET])
        return path

    @cached_property
    def untrained(self) -> Path:
        """The same architecture at its random start: one step at a rate of nearly 0."""
        path = self.output / "untrained/checkpoints/last.ckpt"
        if not path.is_file():
            store = self.store("untrained", self.cells(SETS["breast"]), ["cell_type"])
            still = ["trainer.max_steps=1", "optim.lr=1e-12", "validate_every=1"]
            call(["train", "experiment=atlas_small", f"store={store}", f"output={path.parents[1]}", *still, *QUIET])
        return path

    def file(self, name: str) -> Path:
        """A file of real cells.

        Raises:
            FileNotFoundError: it is not there.
        """
        path = self.data / f"{name}.h5ad"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; say with --data where the .h5ad files lie")
        return path

    def cells(self, one: Set) -> ad.AnnData:
        """The cells of a set; those of several files with obs["batch"] and their common genes."""
        parts = [ad.read_h5ad(self.file(name)) for name in one.files]
        if len(parts) == 1:
            return parts[0]
        for part in parts:
            part.var_names_make_unique()
        whole = ad.concat(dict(zip(one.files, parts, strict=True)), label="batch", join="inner", index_unique="-")
        whole.var = parts[0].var.loc[whole.var_names]
        named = whole.obs[one.label].astype(str).replace(one.names)
        whole.obs[one.label] = named
        return whole[named != ""].copy()

    def store(self, name: str, cells: ad.AnnData, obs: Sequence[str], *more: str) -> Path:
        """A token store of some cells in the vocabulary of the checkpoint."""
        path = self.output / "stores" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.with_suffix(".h5ad")
            cells.write_h5ad(file)
            source = [f"input={file}", f"output={path}", f"obs=[{','.join(obs)}]", "on_duplicate_cells=number"]
            call(["prepare", *source, f"init_from={self.checkpoint}", "workers=1", *more])
            file.unlink()
        return path

    def finetune(self, name: str, experiment: str, store: Path, seed: int, *more: str) -> Path:
        """The folder of a fine-tune of the checkpoint, on a split of its own seed."""
        folder = self.output / "runs" / name
        seeds = [f"seed={seed}", f"data.split_seed={seed}"]
        base = [f"init_from={self.checkpoint}", f"store={store}", f"output={folder}"]
        call(["finetune", f"experiment={experiment}", *base, *seeds, *more, *QUIET])
        return folder


def predicted(folder: Path, store: Path) -> tuple[dict[str, np.ndarray], Any]:
    """What a fine-tuned head says of all cells of a store, in their order, and the head."""
    from omegaconf import OmegaConf

    from scfm.checkpoint import read
    from scfm.config import build
    from scfm.data.store import TokenStore
    from scfm.run.predict import predictions
    from scfm.run.restore import restore_predictor

    module = restore_predictor(read(folder / "checkpoints/best.ckpt"))
    data = build(OmegaConf.load(folder / "config.yaml").data, TokenStore.open(store))
    return predictions(module, data, np.arange(len(data.store))), module.task


def split_of(folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of each part of a fine-tune's split; of a file whose cells have the same names, by their order."""
    table = pd.read_csv(folder / "split.csv", dtype=str)
    place = {name: row for row, name in enumerate(names)}
    rows = table["cell"].map(place).to_numpy()
    return {part: np.sort(rows[table["part"] == part]) for part in table["part"].unique()}


def annotation(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Macro-F1 on test cells, with all labels of the other cells and with 10 % of them (at least two a class)."""
    cells = bench.cells(one)
    cells.obs_names_make_unique()
    truth = cells.obs[one.label].astype(str).to_numpy()
    classes, codes = np.unique(truth, return_inverse=True)
    columns = ["label"] + ([one.group] if one.group else [])
    more = [f"group={one.group}"] if one.group else []
    parts: dict[str, np.ndarray] = {}
    for share in one.settings:
        key = {"task": "annotation", "set": name, "setting": f"{share:.0%} of labels", "seed": seed}
        run = f"{name}-{share:g}-{seed}"
        known = _labelled(codes, parts["test"], share, seed) if share < 1 else np.ones(len(codes), dtype=bool)
        cells.obs["label"] = np.where(known, truth, None)
        store = bench.store(run, cells, columns, *more)

        def ours(*options: str, store: Path = store, run: str = run) -> dict[str, float]:
            folder = bench.finetune(run, "annotation_classifier", store, seed, *options)
            found = json.loads((folder / "metrics.json").read_text())
            return {"macro_f1": found["test/macro_f1"], "accuracy": found["test/accuracy"]}

        split = bench.output / "runs" / run / "split.csv"
        measure({**key, "method": "scfm, fine-tuned"}, ours)
        parts = split_of(split.parent, cells.obs_names)
        train = np.concatenate([rows for part, rows in parts.items() if part != "test"])
        train, test = np.sort(train[known[train]]), parts["test"]
        for method, (features, model) in _rivals(bench, name, cells).items():

            def theirs(
                features: Any = features, model: Any = model, train: np.ndarray = train, test: np.ndarray = test
            ) -> dict[str, float]:
                values = features(train)
                seen, probabilities = model(values[train], codes[train], values[test])
                table = confusion(codes[test], seen[probabilities.argmax(1)], len(classes))
                return {"macro_f1": macro_f1(table), "accuracy": accuracy(table)}

            measure({**key, "method": method}, theirs)


def _labelled(codes: np.ndarray, test: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(B,) bool: the test cells, and of the others a share of each class, at least two cells."""
    rng, known = np.random.default_rng(seed), np.zeros(len(codes), dtype=bool)
    known[test] = True
    rest = np.setdiff1d(np.arange(len(codes)), test)
    for code in np.unique(codes):
        own = rng.permutation(rest[codes[rest] == code])
        known[own[: max(2, round(share * len(own)))]] = True
    return known


def _rivals(bench: Bench, name: str, cells: ad.AnnData) -> dict[str, tuple[Any, Any]]:
    expression = read_expression(cells)
    return {
        "logistic regression, 2000 HVGs": (expression.scaled, linear),
        "logistic regression, 64 PCs of all genes": (lambda train: _components(expression, train), linear),
        "15 nearest on PCA": (expression.principal_components, nearest),
        "frozen backbone, linear probe": (lambda train: embedded(bench, name, cells, bench.checkpoint), linear),
        "random backbone, linear probe": (lambda train: embedded(bench, name, cells, bench.untrained), linear),
        "majority class": (lambda train: np.zeros((cells.n_obs, 1)), majority),
    }


def _components(expression: Expression, train: np.ndarray, size: int = 64) -> np.ndarray:
    values = expression.values.astype(np.float64)
    return PCA(size, svd_solver="arpack", random_state=0).fit(values[train]).transform(values)


def embedded(bench: Bench, name: str, cells: ad.AnnData, checkpoint: Path) -> np.ndarray:
    """X_scfm of a pretrained checkpoint, by scfm-embed, kept for other seeds."""
    path = bench.output / "embedded" / f"{name}-{checkpoint.parents[1].name}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        source, target = path.with_suffix(".in.h5ad"), path.with_suffix(".out.h5ad")
        cells.write_h5ad(source)
        call(["embed", f"init_from={checkpoint}", f"input={source}", f"output={target}", "trainer.accelerator=cpu",
              "trainer.enable_progress_bar=false", "overwrite=true", "max_dropped=1"])  # fmt: skip
        np.save(path, ad.read_h5ad(target).obsm["X_scfm"])
        source.unlink(), target.unlink()
    return np.load(path)


def rejection(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """AUROC of confidence between test cells of known types and cells of a type that was left out of training."""
    cells = bench.cells(one)
    truth = cells.obs[one.label].astype(str).to_numpy()
    classes, codes = np.unique(truth, return_inverse=True)
    left_out = classes[seed % len(classes)]
    known = truth != left_out
    kept = cells[known].copy()
    kept.obs["label"] = truth[known]
    run = f"{name}-{seed}"
    key = {"task": "rejection", "set": name, "setting": f"without {left_out}", "seed": seed}
    store = bench.store(run, kept, ["label"])
    whole = bench.store(f"{name}-all", cells, [one.label])
    folder = bench.output / "runs" / run

    def test() -> np.ndarray:
        return np.flatnonzero(np.isin(cells.obs_names, kept.obs_names[split_of(folder, kept.obs_names)["test"]]))

    def ours() -> dict[str, float]:
        bench.finetune(run, "annotation_classifier", store, seed)
        outputs, head = predicted(folder, whole)
        sure = head.annotate(outputs)["scfm_label_confidence"]
        rows = np.concatenate([test(), np.flatnonzero(~known)])
        return {"auroc": unknown_auroc(sure[rows], known[rows])}

    def theirs() -> dict[str, float]:
        train = np.setdiff1d(np.flatnonzero(known), test())
        values = read_expression(cells).scaled(train)
        rows = np.concatenate([test(), np.flatnonzero(~known)])
        return {"auroc": unknown_auroc(linear(values[train], codes[train], values[rows])[1].max(1), known[rows])}

    measure({**key, "method": "scfm, fine-tuned"}, ours)
    measure({**key, "method": "logistic regression, 2000 HVGs"}, theirs)


def trajectory(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Spearman of predicted and true stage on test cells; a stage is a category, so calls and numbers are apart."""
    cells = bench.cells(one)
    rank = cells.obs[one.label].to_numpy(dtype=float)
    cells.obs["stage"] = [f"{value:g}" for value in rank]
    store = bench.store(name, cells, ["stage", one.label], f"genes.species={one.species}")
    key = {"task": "trajectory", "set": name, "setting": "test cells", "seed": seed}
    runs = {"trajectory_ordinal": "scfm ordinal", "trajectory_time": "scfm time"}
    for experiment, method in runs.items():
        folder = bench.output / "runs" / f"{name}-{experiment}-{seed}"

        def ours(experiment: str = experiment, folder: Path = folder) -> dict[str, float]:
            bench.finetune(folder.name, experiment, store, seed)
            test, outputs = split_of(folder, cells.obs_names)["test"], predicted(folder, store)[0]
            called = outputs["stage"] if "stage" in outputs else np.round(outputs["time"].clip(rank.min(), rank.max()))
            return _ordered(outputs["pseudotime"][test], called[test], rank[test])

        measure({**key, "method": method}, ours)
    parts = split_of(bench.output / "runs" / f"{name}-trajectory_ordinal-{seed}", cells.obs_names)
    train, test = np.sort(np.concatenate([rows for part, rows in parts.items() if part != "test"])), parts["test"]
    values = read_expression(cells).principal_components(train)
    rivals = {"ridge on PCA": RidgeCV(np.logspace(-2, 6, 17)), "15 nearest on PCA": KNeighborsRegressor(15)}
    for method, model in rivals.items():

        def theirs(model: Any = model) -> dict[str, float]:
            found = model.fit(values[train], rank[train]).predict(values[test])
            return _ordered(found, np.round(found.clip(rank.min(), rank.max())), rank[test])

        measure({**key, "method": method}, theirs)


def _ordered(number: np.ndarray, called: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {
        "spearman of the stage called": float(spearmanr(called, truth).statistic),
        "spearman of the number": float(spearmanr(number, truth).statistic),
    }


def pseudotime(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Spearman with the truth of pseudotimes that know the root type alone, over all cells that have a truth."""
    cells = bench.cells(one)
    truth = cells.obs[one.label].to_numpy(dtype=float)
    true = truth >= 0
    cells.obs["stage"] = [f"{value:g}" for value in truth]
    store = bench.store(name, cells, ["stage"], f"genes.species={one.species}", "genes.max_dropped=0.6")
    key = {"task": "pseudotime", "set": name, "setting": "root type known", "seed": seed}

    def ours() -> dict[str, float]:
        options = ["head.root_label=stage", "head.root_type='0'"]
        folder = bench.finetune(f"{name}-{seed}", "trajectory_pseudotime", store, seed, *options)
        return {"spearman": float(spearmanr(predicted(folder, store)[0]["pseudotime"][true], truth[true]).statistic)}

    def theirs() -> dict[str, float]:
        graph = neighbour_graph(read_expression(cells).principal_components(seed=seed), 15)
        found = diffusion_pseudotime(graph, extreme_cell(graph, truth == 0))
        reached = true & np.isfinite(found)
        return {"spearman": float(spearmanr(found[reached], truth[reached]).statistic)}

    measure({**key, "method": "scfm, learned diffusion"}, ours)
    measure({**key, "method": "DPT on PCA"}, theirs)


def integration(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Scores of scIB over all cells, and the share of a cell's neighbours in its own batch that stay."""
    cells = bench.cells(one)
    cells.obs_names_make_unique()
    cells.obs["batch"] = cells.obs[str(one.group)].astype(str)
    expression, labels = read_expression(cells), cells.obs[one.label].astype(str).to_numpy()
    batch = cells.obs["batch"].to_numpy(dtype=object)
    plain = expression.principal_components(seed=seed)
    store = bench.store(name, cells, ["batch"])
    key = {"task": "integration", "set": name, "setting": "all cells", "seed": seed}

    def scored(make: Callable[[], np.ndarray]) -> Callable[[], dict[str, float]]:
        from scfm.evaluate.integration import integration_scores

        def score() -> dict[str, float]:
            values = make()
            found = integration_scores(values, labels, batch, plain, seed=seed)
            kept = neighbor_overlap(plain, values, batch)
            return {name: found[name] for name in ("total", "bio", "batch")} | {"kept_neighbors": kept}

        return score

    measure({**key, "method": "PCA, unintegrated"}, scored(lambda: plain))
    for method in ("hvg", "harmony", "combat"):
        measure(
            {**key, "method": method},
            scored(lambda method=method: baseline_embedding(method, expression, batch, None, seed)),
        )
    for head in ("triplet", "contrastive_sampler"):

        def ours(head: str = head) -> np.ndarray:
            folder = bench.finetune(f"{name}-{head}-{seed}", f"integration_{head}", store, seed)
            return predicted(folder, store)[0]["integrated"]

        measure({**key, "method": f"scfm, {head}"}, scored(ours))


TASKS: dict[str, Callable[[Bench, Measure, str, Set, int], None]] = {
    "annotation": annotation,
    "rejection": rejection,
    "trajectory": trajectory,
    "pseudotime": pseudotime,
    "integration": integration,
}
