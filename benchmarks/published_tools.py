"""Geneformer's extractor, perturber and classifiers on an exported folder; ``published.py`` starts it.

python benchmarks/published_tools.py CODE WORK

Runs under an interpreter that has what CODE needs (transformers 4.46, datasets 3, tdigest, ...) and need not have scfm.
WORK holds ``asked.json``, ``model/`` and ``cells.dataset``. Without a GPU its calls for one are answered by the CPU;
nothing of CODE is changed.
"""

import inspect
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pandas as pd

#: Cells of which the classifiers learn, and their optimizer steps.
LEARNED, STEPS = 60, 4
#: Of both classifiers; the rest is as published.
TRAINING: dict[str, Any] = {
    "max_steps": STEPS, "per_device_train_batch_size": 4, "evaluation_strategy": "no", "save_strategy": "no",
    "load_best_model_at_end": False, "learning_rate": 1e-3, "report_to": "none", "remove_unused_columns": True,
}  # fmt: skip


def run(code: Path, work: Path) -> None:
    """Extract, delete and classify with the published classes.

    Args:
        code: the repository, which holds ``geneformer/``.
        work: what ``published.py`` has written.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class OnCpu(TorchFunctionMode):
        """Answers calls for CUDA by the CPU."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            plain = ["cpu" if isinstance(arg, (str, torch.device)) and "cuda" in str(arg) else arg for arg in args]
            named = {k: "cpu" if k == "device" and "cuda" in str(v) else v for k, v in (kwargs or {}).items()}
            return function(*plain, **named)

    sys.path.insert(0, str(code))
    asked = json.loads((work / "asked.json").read_text())
    if torch.cuda.is_available():
        run_parts(work, asked)
        return
    with OnCpu():
        run_parts(work, asked)


def run_parts(work: Path, asked: dict[str, Any]) -> None:
    """Every tool in turn; what each found lies in ``work``."""
    for mode in asked["modes"]:
        for layer in (-1, 0):
            extract(work, "model", mode, layer, f"embs_{mode}_{layer}")
    if asked["only_extractor"]:
        return
    mode = asked["modes"][0]
    delete(work, asked, f"{mode}_and_gene", None, "effects")
    states = {"state_key": asked["label"], "start_state": asked["start"], "goal_state": asked["goal"]}
    centroids = extractor(work, mode, -1, summary_stat="exact_mean")
    states_of = centroids.get_state_embs(states, str(work / "model"), str(work / "cells.dataset"), str(work), "s")
    delete(work, asked, mode, {"cell_states_to_model": states, "state_embs_dict": states_of}, "shifts")
    if mode == "cls":
        delete(work, asked, mode, None, "cosines")
    classify_cells(work, asked["label"])
    extract(work, "cell_classifier", mode, -1, "classifier_embs", model_type="CellClassifier", num_classes=asked["n"])
    classify_genes(work, asked["classes"])


def extractor(work: Path, mode: str, layer: int, **options: Any) -> Any:
    """An ``EmbExtractor`` of all cells."""
    from geneformer import EmbExtractor

    shared = {"emb_mode": mode, "emb_layer": layer, "max_ncells": None, "forward_batch_size": 16, "nproc": 1}
    return EmbExtractor(**with_dictionary(EmbExtractor, work, {**shared, **options}))


def extract(work: Path, model: str, mode: str, layer: int, name: str, **options: Any) -> None:
    """``NAME.csv``: an embedding a row, with the cell's name."""
    made = extractor(work, mode, layer, emb_label=["unique_cell_id"], **options)
    made.extract_embs(str(work / model), str(work / "cells.dataset"), str(work), name)


def delete(work: Path, asked: dict[str, Any], mode: str, states: dict[str, Any] | None, name: str) -> None:
    """``NAME/*_raw.pickle`` after the deletion of a gene, and ``NAME.json``, the cells in the order of its values."""
    from geneformer import InSilicoPerturber
    from geneformer import perturber_utils as tools

    out = work / name
    out.mkdir()
    options = {"perturb_type": "delete", "genes_to_perturb": [asked["gene"]], "emb_mode": mode, "emb_layer": -1}
    shared = {"forward_batch_size": 16, "max_ncells": None, "nproc": 1, **options, **(states or {})}
    perturber = InSilicoPerturber(**with_dictionary(InSilicoPerturber, work, shared))
    perturber.perturb_data(str(work / "model"), str(work / "cells.dataset"), str(out), name)
    cells = perturber.apply_additional_filters(tools.load_and_filter(None, 1, str(work / "cells.dataset")))
    (work / f"{name}.json").write_text(json.dumps(cells["unique_cell_id"]))


def with_dictionary(kind: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Options with the exported dictionary; releases that have two vocabularies are told which file format it is."""
    found = {**options, "token_dictionary_file": str(work / "model" / "token_dictionary.pkl")}
    return {**found, "model_version": "V2"} if "model_version" in inspect.signature(kind).parameters else found


def classify_cells(work: Path, label: str) -> None:
    """Fine-tune the exported folder on cells for a few steps; ``cells.csv`` has the scores of the learned cells."""
    import torch
    from datasets import load_from_disk
    from transformers import BertForSequenceClassification

    options = {"classifier": "cell", "cell_state_dict": {"state_key": label, "states": "all"}}
    train(work, "cell_classifier", options)
    model = BertForSequenceClassification.from_pretrained(work / "cell_classifier").eval()
    rows = []
    with torch.no_grad():
        for cell in load_from_disk(str(work / "cells.dataset")).select(range(LEARNED)):
            scores = model(input_ids=torch.tensor([cell["input_ids"]])).logits[0]
            rows.append({"unique_cell_id": cell["unique_cell_id"], **dict(enumerate(scores.softmax(0).tolist()))})
    pd.DataFrame(rows).to_csv(work / "cells.csv", index=False)


def classify_genes(work: Path, classes: dict[str, list[str]]) -> None:
    """The same on genes; ``genes.csv`` has the mean probabilities of every gene over the learned cells."""
    import torch
    from datasets import load_from_disk
    from transformers import BertForTokenClassification

    train(work, "gene_classifier", {"classifier": "gene", "gene_class_dict": classes})
    model = BertForTokenClassification.from_pretrained(work / "gene_classifier").eval()
    sums: dict[int, list[Any]] = {}
    with torch.no_grad():
        for cell in load_from_disk(str(work / "cells.dataset")).select(range(LEARNED)):
            scores = model(input_ids=torch.tensor([cell["input_ids"]])).logits[0].softmax(1)
            for token, values in zip(cell["input_ids"], scores.tolist(), strict=True):
                sums.setdefault(token, []).append(values)
    names = {
        token: gene for gene, token in pickle.loads((work / "model" / "token_dictionary.pkl").read_bytes()).items()
    }
    table = {names[token]: pd.DataFrame(values).mean() for token, values in sums.items()}
    pd.DataFrame(table).T.to_csv(work / "genes.csv")


def train(work: Path, name: str, options: dict[str, Any]) -> None:
    """Prepare cells with the published classifier, train it, and save its model as the folder ``name``."""
    import torch
    from geneformer import Classifier

    shared = {"max_ncells": LEARNED, "freeze_layers": 0, "nproc": 1, "forward_batch_size": 4}
    steps = {**TRAINING, "use_cpu": not torch.cuda.is_available()}
    made = Classifier(**with_dictionary(Classifier, work, {**shared, **options, "training_args": steps}))
    prepared = work / f"{name}_data"
    prepared.mkdir()
    made.prepare_data(str(work / "cells.dataset"), str(prepared), name, test_size=0)
    trainer = made.train_all_data(
        model_directory=str(work / "model"),
        prepared_input_data_file=str(prepared / f"{name}_labeled.dataset"),
        id_class_dict_file=str(prepared / f"{name}_id_class_dict.pkl"),
        output_directory=str(work),
        output_prefix=name,
    )
    trainer.model.save_pretrained(work / name)
    for path in (work / "model").glob("*.pkl"):  # the trained folder is read by scfm, which needs the vocabulary
        (work / name / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
