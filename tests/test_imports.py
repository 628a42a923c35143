"""What a command loads before its first work: each package here is a second or more that a user waits for."""

import subprocess
import sys

import pytest

from scfm.datasets.demo_cells import demo_file

SHOW = "\nprint('LOADED', *sorted(sys.modules))"
#: Needed by no command before its work; each loads what the one named here is about.
NEVER = {
    "torchmetrics.text": "metrics of texts",
    "torchmetrics.functional.text": "metrics of texts",
    "scanpy": "nothing that scfm does",
    "umap": "pictures",
    "datasets": "a store is read without it",
    "wandb": "the logger of that name",
    "tensorboard": "the logger of that name",
}


def loaded(code: str, *arguments: str) -> set[str]:
    """The modules of a new process at the end of some code."""
    command = [sys.executable, "-c", f"import sys\n{code}{SHOW}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(next(line for line in done.stdout.splitlines() if line.startswith("LOADED")).split()[1:])


def test_importing_scfm_loads_nothing_else():
    assert not {"numpy", "torch", "pandas", "hydra"} & loaded("import scfm")


def test_help_needs_neither_arrays_nor_torch():
    assert not {"numpy", "torch", "pandas", "anndata", "numba"} & loaded("from scfm import cli")


def test_preparing_a_file_needs_no_torch(tmp_path):
    code = "from scfm import cli\nfrom tqdm import tqdm\ncli.main('prepare')"
    modules = loaded(code, f"input={demo_file()}", f"output={tmp_path / 'store'}", "obs=[cell_type]", "tokenizer=tgpt")
    assert (tmp_path / "store" / "manifest.json").is_file()
    unneeded = {"torch", "transformers", "pytorch_lightning", "anndata", "sklearn", "matplotlib", *NEVER}
    assert not unneeded & modules


@pytest.mark.parametrize("command", ["train", "embed"])
def test_a_model_needs_no_metrics_of_texts(command):
    code = f"from scfm.imports.deferred import defer_torchmetrics\ndefer_torchmetrics()\nimport scfm.commands.{command}"
    modules = loaded(code)
    assert "pytorch_lightning" in modules
    assert not NEVER.keys() & modules


def test_torchmetrics_is_whole_once_it_is_asked_for():
    code = """
from scfm.imports.deferred import defer_torchmetrics
defer_torchmetrics()
import pytorch_lightning
import torchmetrics
assert "torchmetrics.classification" not in sys.modules
assert issubclass(torchmetrics.Accuracy, torchmetrics.Metric) and torchmetrics.__version__
from torchmetrics import Metric, MetricCollection
from torchmetrics.metric import Metric as same
assert same is Metric and hasattr(torchmetrics, "functional") and not hasattr(torchmetrics, "no_such_name")
defer_torchmetrics()
assert sys.modules["torchmetrics"] is torchmetrics
"""
    assert "torchmetrics.classification" in loaded(code)
