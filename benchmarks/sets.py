"""Which real cells a method may be tuned on, which only judge it, and how often these have been looked at.

    from looks import record_look
    from sets import from_yaml, judging, read_cells, tuning

    for one in tuning("backbone").values():        # as often as one likes
        cells = read_cells(one, Path("../shared/data"))
    for one in judging("backbone").values():       # once a version; the log of looks counts
        record_look(one)
        cells = read_cells(one, Path("../shared/data"))

A set of the tables below is for tuning or for judging, by task. Files of a user are sets of a small yaml
(:func:`from_yaml`); they judge unless the yaml says ``role: tuning``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import anndata as ad
import numpy as np
import pandas as pd
import yaml

#: ``backbone`` is a frozen backbone under a probe; the others are heads that are fine-tuned.
Task = Literal[
    "backbone",
    "annotation",
    "rejection",
    "trajectory",
    "pseudotime",
    "integration",
    "visualization",
    "protein",
    "alignment",
]
Role = Literal["tuning", "judging"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class CellSet:
    """Real cells with a truth, for one task.

    Attributes:
        name: how tables call it; the same cells have the same name in all tasks.
        files: one or more, without .h5ad; several are batches of one set, on their common genes.
        label: obs column of types; None where the truth is a time.
        group: obs column that splits keep whole (donor).
        batch: obs column of batches; ``batch`` for several files.
        time: obs column of known times, numbers; negative ones are unknown.
        species: of the gene names.
        settings: shares of the labels that are learned from.
        most: cells of each group, drawn once; None for all.
        names: other names for the labels of some file; "" leaves cells out.
        without: a file whose cells, by name, are left out.
        task: what the cells are for.
        role: ``tuning`` or ``judging``.
    """

    name: str
    files: tuple[str, ...]
    label: str | None = None
    group: str | None = None
    batch: str | None = None
    time: str | None = None
    species: str = "human"
    settings: tuple[float, ...] = (1.0,)
    most: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    without: str | None = None
    task: Task = "annotation"
    role: Role = "judging"

    @property
    def truth(self) -> str:
        """The obs column that the task is about; none for proteins, which lie beside the genes.

        Raises:
            ValueError: the set names no such column.
        """
        if self.task == "protein":
            return ""
        column = self.time if self.task in ("trajectory", "pseudotime") else self.label
        if column is None:
            raise ValueError(f"set {self.name!r} names no {'time' if self.label else 'label'}, which {self.task} needs")
        return column


#: What pbmc3k and the sorted cells call the same types.
PBMC = {
    "CD4TCM": "Memory CD4 T", "CD4TN": "Naive CD4 T", "CD4Treg": "CD4 Treg", "CD8TN": "CD8 T",
    "Monocyte": "CD14+ Mono", "unknown": "",
}  # fmt: skip

FEW = (1.0, 0.1)
ZHENG = CellSet("zheng", ("zheng_sorted_pbmc_3500",), "cell_type")
BREAST = CellSet("breast", ("breast_tnbc_cid4465",), "cell_type_minor")
KANG = CellSet("kang", ("kang_pbmc_ctrl",), "cell_type", "donor", "donor", most=500)
HAO = CellSet("hao", ("hao_pbmc_small",), "cell_type")
NSCLC = CellSet("nsclc", ("nsclc_dendritic_rogue",), "cell_type", "donor", "donor")
PBMC3K = CellSet("pbmc3k", ("pbmc3k",), "cell_type")
CROHN = CellSet("crohn", ("crohn_gut_scp1884_1020",), "cell_type", "donor", "batch")
ONEK1K = CellSet("onek1k", ("onek1k_40donor_1000g",), "cell_type", "donor", "donor", most=50)
BARON = CellSet("baron", ("baron_pancreas_human_mouse_350",), "cell_type", "donor", "species")
MIXOLOGY = CellSet("sc_mixology", ("sc_mixology_cell_lines",), "cell_line", batch="batch")
PBMC_ZHENG = CellSet("pbmc3k+zheng", ("pbmc3k", "zheng_sorted_pbmc_3500"), "cell_type", batch="batch", names=PBMC)
PANCREAS = CellSet(
    "pancreas", ("pancreas_endocrinogenesis_739_7192g",), "cell_type", time="stage_rank", species="mouse"
)
PAUL15 = CellSet("paul15", ("paul15_2730",), "cluster", time="ery_rank", species="mouse")
PANCREAS_REST = CellSet(
    "pancreas_rest",
    ("pancreas_endocrinogenesis_3696",),
    "cell_type",
    time="stage_rank",
    species="mouse",
    without="pancreas_endocrinogenesis_739_7192g",
)
CITE = CellSet("cite_pbmc", ("cite_pbmc_1k",))
A549 = CellSet("a549", ("a549_dex_scicar",), "time")
EMBRYO = CellSet("embryo", ("embryo_deng_133",), "stage", time="stage_rank", species="mouse")

TUNING: dict[Task, tuple[CellSet, ...]] = {
    "backbone": (NSCLC, BREAST, PBMC3K, CROHN, ONEK1K),
    "annotation": (NSCLC, PBMC3K, CROHN, ONEK1K),
    "rejection": (PBMC3K, NSCLC),
    "trajectory": (PANCREAS_REST, EMBRYO),
    "pseudotime": (PANCREAS_REST, EMBRYO),
    "integration": (NSCLC, ONEK1K, BARON),
    "visualization": (PBMC3K, NSCLC),
    "protein": (),
    "alignment": (),
}
JUDGING: dict[Task, tuple[CellSet, ...]] = {
    "backbone": (ZHENG, HAO, KANG),
    "annotation": (ZHENG, BREAST, KANG, HAO),
    "rejection": (HAO, ZHENG),
    "trajectory": (PANCREAS,),
    "pseudotime": (PANCREAS, PAUL15),
    "integration": (MIXOLOGY, PBMC_ZHENG, KANG),
    "visualization": (ZHENG, PANCREAS),
    "protein": (CITE,),
    "alignment": (A549,),
}


def tuning(task: Task) -> dict[str, CellSet]:
    """Sets that variants of a task may be compared on, by name."""
    return _sets(TUNING, task, "tuning")


def judging(task: Task) -> dict[str, CellSet]:
    """Sets that have no say in any choice, by name; call ``looks.record_look`` before one is scored."""
    return _sets(JUDGING, task, "judging")


def _sets(table: Mapping[Task, tuple[CellSet, ...]], task: Task, role: Role) -> dict[str, CellSet]:
    if task not in table:
        raise ValueError(f"task={task!r} is unknown; choose from {', '.join(TASKS)}")
    settings = FEW if task == "annotation" else (1.0,)
    return {one.name: replace(one, task=task, role=role, settings=settings) for one in table[task]}


def from_yaml(path: Path) -> dict[Task, dict[str, CellSet]]:
    """A user's own files, named in a yaml.

    ``lung: {files: lung.h5ad, label: cell_type, group: donor, batch: sample, time: day, species: human}`` is enough.
    The tasks are those that its columns allow, unless ``task:`` names some: ``label`` allows annotation, rejection,
    visualization and backbone, ``label`` and ``batch`` integration, ``time`` trajectory and pseudotime.

    Args:
        path: of the yaml; see ``docs/benchmarks.md``.

    Returns:
        By task, sets by name; each judges unless it says ``role: tuning``.

    Raises:
        FileNotFoundError: no such yaml.
        ValueError: not a mapping of sets, an unknown key, task or role, a set without files, or one whose columns allow
            no task.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a yaml that names files and their columns")
    given = yaml.safe_load(path.read_text())
    if not isinstance(given, dict) or not all(isinstance(own, dict) for own in given.values()):
        raise ValueError(f"{path}: expected NAME: {{files: cells.h5ad, label: COLUMN, ...}} for each set")
    found: dict[Task, dict[str, CellSet]] = {}
    for name, own in given.items():
        for one in _own_sets(path, str(name), own):
            found.setdefault(one.task, {})[one.name] = one
    return found


def _own_sets(path: Path, name: str, given: Mapping[str, Any]) -> list[CellSet]:
    known = {each.name for each in fields(CellSet)} - {"name"}
    wrong = sorted(set(given) - known)
    if wrong:
        raise ValueError(f"{path}: {name} has the keys {', '.join(wrong)}; choose from {', '.join(sorted(known))}")
    columns = [key for key in ("label", "group", "batch", "time", "species", "without") if key in given]
    odd = [key for key in columns if not isinstance(given[key], str)]
    if odd:
        raise ValueError(f"{path}: {name} has {odd[0]}: {given[odd[0]]!r}; expected one name")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    files = values.get("files", ())
    values["files"] = tuple(one.removesuffix(".h5ad") for one in ((files,) if isinstance(files, str) else files))
    if not values["files"]:
        raise ValueError(f"{path}: {name} names no files; expected files: cells.h5ad or a list")
    if len(values["files"]) > 1:
        values.setdefault("batch", "batch")
    asked = values.pop("task", None)
    tasks = _allowed(values) if asked is None else (asked,) if isinstance(asked, str) else asked
    if values.get("role", "judging") not in get_args(Role) or not set(tasks) <= set(TASKS):
        raise ValueError(
            f"{path}: {name} has role={values.get('role')!r} and task={asked!r}; expected a role of "
            f"{', '.join(get_args(Role))} and tasks of {', '.join(TASKS)}"
        )
    if not tasks:
        raise ValueError(f"{path}: {name} allows no task; name label: COLUMN, time: COLUMN or both")
    sets = [CellSet(name, **values, task=task) for task in tasks]
    for one in sets:
        if one.task == "integration" and one.batch is None:
            raise ValueError(f"{path}: {name} names no batch: COLUMN, which integration needs")
        _ = one.truth
    return sets


def _allowed(values: Mapping[str, Any]) -> tuple[Task, ...]:
    label, time = values.get("label") is not None, values.get("time") is not None
    needs = {
        "integration": label and values.get("batch") is not None,
        "trajectory": time,
        "pseudotime": time,
        "protein": False,
        "alignment": False,
    }
    return tuple(task for task in TASKS if needs.get(task, label))


def read_cells(one: CellSet, data: Path) -> ad.AnnData:
    """The cells of a set with unique names; those of several files with obs["batch"] and their common genes.

    Args:
        one: the set.
        data: folder of the .h5ad files.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a column that the set names is not there.
    """
    parts = [ad.read_h5ad(find_file(name, data)) for name in one.files]
    cells = parts[0] if len(parts) == 1 else _joined(one, parts)
    for column in (one.label, one.group, one.batch, one.time):
        if column is not None and column not in cells.obs:
            have = ", ".join(map(str, cells.obs.columns))
            raise ValueError(f"set {one.name!r}: {column!r} is not a column of obs; the columns are: {have}")
    if one.without is not None:
        other = ad.read_h5ad(find_file(one.without, data), backed="r").obs_names
        cells = cells[~cells.obs_names.isin(other)].copy()
    cells.obs_names_make_unique()
    return cells if one.most is None else _drawn(cells, one.group, one.most)


def find_file(name: str, data: Path) -> Path:
    """A file of cells in a folder.

    Raises:
        FileNotFoundError: it is not there.
    """
    path = data / f"{name}.h5ad"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; say with --data where the .h5ad files lie")
    return path


def _joined(one: CellSet, parts: list[ad.AnnData]) -> ad.AnnData:
    for part in parts:
        part.var_names_make_unique()
    whole = ad.concat(dict(zip(one.files, parts, strict=True)), label="batch", join="inner", index_unique="-")
    whole.var = parts[0].var.loc[whole.var_names]
    if one.label is None:
        return whole
    named = whole.obs[one.label].astype(str).replace(dict(one.names))
    whole.obs[one.label] = named
    return whole[named != ""].copy()


def _drawn(cells: ad.AnnData, group: str | None, most: int) -> ad.AnnData:
    """At most so many cells of each group (of all cells without groups), in their order."""
    order = np.random.default_rng(0).permutation(cells.n_obs)
    owner = pd.Series(cells.obs[group].astype(str).to_numpy()[order] if group else "all", index=range(len(order)))
    return cells[np.sort(order[owner.groupby(owner).cumcount().to_numpy() < most])].copy()
