"""The published extractor, perturber and classifiers on an exported model, beside scfm: one table of differences.

python benchmarks/published.py CODE --python PYTHON [--version V2] [--cells demo] [--n-cells 200] [--sizes tiny] [...]

CODE is a copy of Geneformer's repository (the folder that holds ``geneformer/`` with its dictionaries), PYTHON the
interpreter of an environment with what it needs (transformers 4.46, datasets 3, tdigest, ...), which need not have
scfm: ``published_tools.py`` runs there.

Reads a folder of transformers with random weights and the published vocabulary (or the checkpoint given), prepares the
cells, exports the model and the store, has the published classes read both, and prints for every part the largest
difference from what scfm computes, beside the standard deviation of the values over cells, without which a small
difference says nothing. Exit status 1 where a difference is above 1e-4.
"""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from published_folders import find_dictionaries, write_folder, yaml_sizes

#: The comparison of every part passes below this.
TOLERANCE = 1e-4
#: Layer and pooling by the extractor's names -> ours.
RULES = {("cls", -1): (-2, "cls"), ("cell", -1): (-2, "mean"), ("cls", 0): (-1, "cls"), ("cell", 0): (-1, "mean")}


def main() -> None:
    """Make the folders, run the published code on them, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--version", choices=("V1", "V2"), default="V2", help="vocabulary of the random model")
    parser.add_argument("--sizes", default="tiny", help="of the random model: a file of configs/model")
    parser.add_argument("--layers", type=int, help="of the random model, in place of those of --sizes")
    parser.add_argument("--spread", type=float, default=0.2, help="of random weights: 0.2 lets a deletion move cells")
    parser.add_argument("--only-extractor", action="store_true", help="leave perturber and classifiers out")
    parser.add_argument("--checkpoint", help="a trained model in place of the random one")
    parser.add_argument("--cells", default="demo", help=".h5ad")
    parser.add_argument("--n-cells", type=int, help="drawn from the file; all by default")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--work", type=Path, help="folder to keep; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        table = compare(given, work.absolute())
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2e}"))
    sys.exit(int((table["largest_difference"] > TOLERANCE).any()))


def compare(given: argparse.Namespace, work: Path) -> pd.DataFrame:
    """One row a part: cells (or genes) compared, their standard deviation, and the largest difference.

    Args:
        given: the command line.
        work: folder for all that is written.
    """
    import scfm
    from scfm.published.dataset import export_dataset

    adata = draw_cells(given)
    adata.write_h5ad(work / "cells.h5ad")
    source = given.checkpoint or random_model(given, work)
    store = scfm.prepare(work / "cells.h5ad", output=work / "store", obs=[given.label], init_from=source, empty="drop")
    scfm.load(source).export(work / "model")
    export_dataset(store, work / "cells.dataset")
    model = scfm.load(work / "model")
    asked = choose_questions(store, model, given.label) | {"only_extractor": given.only_extractor}
    (work / "asked.json").write_text(json.dumps(asked))
    began = time.perf_counter()
    command = [given.python, str(Path(__file__).with_name("published_tools.py")), str(given.code.absolute()), str(work)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    theirs, began = time.perf_counter() - began, time.perf_counter()
    rows = [*embedding_rows(model, adata, work, asked)]
    if not given.only_extractor:
        rows += [*deletion_rows(model, adata, work, asked), *classifier_rows(adata, work, asked)]
    print(f"published code {theirs:.0f} s, scfm {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return pd.DataFrame(rows)


def draw_cells(given: argparse.Namespace) -> Any:
    """Cells of the file in their order, under names that are unique."""
    import anndata

    from scfm.datasets.demo_cells import demo_file

    adata = anndata.read_h5ad(demo_file() if given.cells == "demo" else given.cells)
    if given.n_cells is not None and given.n_cells < adata.n_obs:
        adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: given.n_cells])].copy()
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    return adata


def random_model(given: argparse.Namespace, work: Path) -> Path:
    """A published folder with random weights, its dictionaries beside."""
    from scfm.tokenizer.dictionary import read_tokens

    files = find_dictionaries(given.code, given.version)
    folder = work / "published"
    sizes = yaml_sizes(given.sizes) | {"positions": 2048 if given.version == "V1" else 4096}
    sizes["layers"] = given.layers or sizes["layers"]
    write_folder(folder, sizes, len(read_tokens(files["token_dictionary"])), spread=given.spread)
    for path in files.values():
        (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    return folder


def choose_questions(store: Any, model: Any, label: str) -> dict[str, Any]:
    """What both sides are asked: the commonest gene to delete, the two largest states, two classes of genes."""
    tokens = store.gather(np.arange(len(store))).values.astype(np.int64)
    counts = np.bincount(tokens, minlength=len(model.vocab))
    genes = sorted(model.vocab.gene_ids, key=lambda token: -counts[token])
    names = np.array(store.categories(label))[store.obs(label)]
    states, sizes = np.unique(names, return_counts=True)
    start, goal = states[np.argsort(-sizes, kind="stable")][:2]
    common = [model.vocab.tokens[i] for i in genes[:40]]
    return {
        "modes": ["cls", "cell"] if "cls" in model.vocab.specials else ["cell"],
        "gene": common[0],
        "label": label,
        "start": start,
        "goal": goal,
        "n": len(states),
        "classes": {"even": common[::2], "odd": common[1::2]},
    }


def embedding_rows(model: Any, adata: Any, work: Path, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Embeddings of every mode and layer of the extractor against ``Model.embed``."""
    for mode in asked["modes"]:
        for layer in (-1, 0):
            found = read_embeddings(work / f"embs_{mode}_{layer}.csv")
            yield compare_values(
                f"extractor, emb_mode={mode}, emb_layer={layer}", embed(model, adata, mode, layer), found
            )


def embed(model: Any, adata: Any, mode: str, layer: int) -> pd.DataFrame:
    """Embeddings under the extractor's names of a layer and a pooling, a row a cell."""
    rule = dict(zip(("embedding_layer", "embedding_pool"), RULES[mode, layer], strict=True))
    done = model.embed(adata, copy=True, **rule)
    return pd.DataFrame(done.obsm["X_scfm"], index=adata.obs_names)


def read_embeddings(path: Path) -> pd.DataFrame:
    """What the extractor wrote."""
    return pd.read_csv(path, index_col=0).set_index("unique_cell_id")


def deletion_rows(model: Any, adata: Any, work: Path, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A deleted gene: shift of each cell towards a state and from itself, and of the states of all other genes."""
    mode = asked["modes"][0]
    options = {"genes": [asked["gene"]], "refill": False, "random_weights": False, "controls": 0}
    states = {"state": asked["label"], "start": asked["start"], "goal": asked["goal"], "center": False}
    model.backbone.embedding_layer, model.backbone.embedding_pool = RULES[mode, -1]
    towards = model.analyse("perturb", adata, permutations=0, **states, **options).tables["cells"]
    found = read_perturbed(work, "shifts", "cell_emb")
    ours = towards.set_index("cell")[["shift"]]
    yield compare_values(f"perturber, deletion, towards a state, emb_mode={mode}", ours, found)
    alone = model.analyse("perturb", adata, effects=True, **options).tables
    if mode == "cls":
        ours = alone["cells"].set_index("cell")[["cosine"]]
        yield compare_values(f"perturber, deletion, emb_mode={mode}", ours, read_perturbed(work, "cosines", "cell_emb"))
    ours = 1 - alone["affected"].set_index("affected")[["mean"]]
    yield compare_values(
        f"perturber, deletion, other genes, emb_mode={mode}_and_gene", ours, read_effects(work, model.vocab.tokens)
    )


def read_perturbed(work: Path, name: str, kind: str) -> pd.DataFrame:
    """A value a cell; of several states the goal's, which comes second."""
    (path,) = (work / name).glob("*cell_embs_dict*_raw.pickle")
    found = pickle.loads(path.read_bytes())
    if all(isinstance(value, dict) for value in found.values()):
        found = list(found.values())[1]
    (values,) = (value for key, value in found.items() if key[1] == kind)
    return pd.DataFrame(
        {"value": [float(value) for value in values]}, index=json.loads((work / f"{name}.json").read_text())
    )


def read_effects(work: Path, tokens: Any) -> pd.DataFrame:
    """Mean cosine of each affected gene over the cells."""
    (path,) = (work / "effects").glob("*gene_embs_dict*_raw.pickle")
    found = pickle.loads(path.read_bytes())
    return pd.DataFrame({"value": {tokens[key[1]]: float(np.mean(values)) for key, values in found.items()}})


def classifier_rows(adata: Any, work: Path, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Classifiers that the published code trained on the exported folder, read by both."""
    import scfm

    model = scfm.load(work / "cell_classifier")
    found = pd.read_csv(work / "cells.csv", index_col=0)
    cells = adata[found.index].copy()
    ours = model.annotate(cells, copy=True).obs[["scfm_published_confidence"]]
    yield compare_values("cell classifier, probability of the guess", ours, found.max(axis=1).to_frame())
    mode = asked["modes"][0]
    ours = embed(model, adata, mode, -1)
    yield compare_values(
        f"extractor on the cell classifier, emb_mode={mode}", ours, read_embeddings(work / "classifier_embs.csv")
    )
    found = pd.read_csv(work / "genes.csv", index_col=0)
    table = scfm.load(work / "gene_classifier").gene_table(cells, min_cells=1).obs
    ours = table[[name for name in table.columns if name.startswith("probability_")]]
    yield compare_values("gene classifier, mean probabilities", ours, found.loc[ours.index])


def compare_values(part: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """A row of the table; rows of both are matched by name, which must be the same ones."""
    assert set(ours.index) == set(theirs.index), f"{part}: {len(ours)} rows here, {len(theirs)} there"
    values = theirs.to_numpy(dtype=np.float64)
    gap = np.abs(ours.loc[theirs.index].to_numpy(dtype=np.float64) - values).max()
    spread = values.std(axis=0).mean()
    return {"part": part, "rows": len(values), "standard_deviation": spread, "largest_difference": float(gap)}


if __name__ == "__main__":
    main()
