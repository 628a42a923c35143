"""Every block and every command of README.md and of the site's pages is run here, or named with the reason why not.

Blocks are run page after page in one folder, on 150 made-up cells and one tiny model, in this process. Commands between
the words of a page are composed and checked.
"""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
from documented_folder import add_models, write_inputs
from hydra import compose, initialize_config_dir

from documented import REPOSITORY, Block, all_pages, blocks, inline_commands
from notebook_runner import run_command
from scfm.cli import CONFIGS, lenient
from scfm.config import check, shipped

pytest.importorskip("scanpy")

#: Pages that later ones need come first.
FIRST = ["README.md", "docs/python.md", "docs/pretraining.md", "docs/store.md"]
PAGES = [*FIRST, *(page for page in all_pages() if page not in FIRST)]
#: Blocks in these languages are no code.
SHOWN = {"text", "yaml"}
#: What a line begins with, and why it is not run here. scfm's own commands are still composed and checked.
NOT_RUN = {
    "make ": "makes an environment of its own; the target is looked up in the Makefile",
    "python -m venv": "as make",
    "pip ": "needs a network; the extras are looked up in pyproject.toml",
    "python -m scfm.demo": "three minutes; tests/test_demo.py composes its commands",
    "scfm-doctor": "tests/commands/test_doctor.py runs it",
    "python benchmarks/": "minutes to hours; script and options are looked up",
    "scfm-prepare 'input=[breast": "reads files that the package does not ship",
    "scfm-train experiment=atlas_small": "twenty minutes",
    "make=": "needs Slurm: tests/test_slurm.py",
    "count=": "needs Slurm: tests/test_slurm.py",
    "encode=": "needs Slurm: tests/test_slurm.py",
    "conda ": "needs a network; tests/test_project_files.py reads the file",
    "docker ": "needs an engine; tests/test_project_files.py reads the file",
    "eval ": "needs Slurm: tests/test_slurm.py",
}
#: How a block of Python begins that another test runs, and which.
PYTHON_ELSEWHERE = {
    "import shutil": "tests/test_heads_page.py",
    "import numpy as np": "tests/test_heads_page.py",
    "import scanpy": "a UMAP compiles for 18 seconds; the quickstart of tests/test_notebooks.py has these lines",
}
#: Pages whose commands other tests run, with cells made for them; here they are composed.
COMMANDS_ELSEWHERE = {
    "CONTRIBUTING.md": "tests/test_extending.py",
    "docs/heads.md": "tests/head/ and tests/test_heads_page.py",
}
#: Pages that make what README.md has made already.
OWN_FOLDER = {"docs/python.md"}
TRAINER = (
    "trainer.accelerator=cpu trainer.enable_progress_bar=false callbacks.progress=null data.tokens_per_batch=8192 "
    "data.max_length=64"
)
FINETUNE = f"{TRAINER} trainer.max_steps=1 validate_every=1 report=false data.unseen=ignore"
#: What makes a command small.
SMALLER = {
    "train": f"{TRAINER} trainer.max_steps=1 validate_every=1",
    "finetune": FINETUNE,
    "embed": "trainer.accelerator=cpu trainer.enable_progress_bar=false",
    "evaluate": "baselines=[pca] rivals=[pca] controls=false folds=2 draws=5 checkpoint=null",
    "sketch": "n=20 genes=50",
    "prepare": "workers=1",
    "export": "",
    "compress": "max_cells=40",
    "analyse": (
        "analysis.max_cells=4 analysis.min_cells=1 analysis.random_weights=false analysis.permutations=2 "
        "analysis.controls=2"
    ),
}
#: The same for words: what a line has, and what stands there instead.
REPLACED = {
    "init_from=...": "init_from=outputs/pbmc/checkpoints/last.ckpt",
    "store=...": "store=stores/pbmc",
    "input=...": "input=cells.h5ad",
    "output=...": "output=embedded.h5ad",
    "MODEL": "outputs/pbmc/checkpoints/last.ckpt",
    "CHECKPOINT": "outputs/pbmc/checkpoints/last.ckpt",
    "width=64 distill.steps=500": "width=16 distill.steps=1",
    "model=tiny": "model=tiny model.layers=3 model.width=32 model.heads=2 model.feedforward=32",
    "scfm-finetune ...": "scfm-finetune init_from=outputs/pbmc/checkpoints/last.ckpt store=stores/pbmc",
}
#: The same in Python.
SMALLER_PYTHON = {
    '"trainer.max_steps": 300}': (
        '"trainer.max_steps": 1, "model.layers": 1, "model.width": 32, "model.feedforward": 32, '
        '"data.tokens_per_batch": 8192}'
    ),
    '{"head.label": "cell_type"}': (
        '{"head.label": "cell_type", "trainer.max_steps": 1, "validate_every": 1, "report": False, '
        '"data.unseen": "ignore"}'
    ),
    'batch="donor")': 'batch="donor", baselines=["pca"], rivals=["pca"], controls=False, folds=2, draws=5)',
}


def is_not_run(line: str) -> bool:
    return line.startswith(tuple(NOT_RUN))


def run_line(line: str) -> None:
    """A documented command, small, as a shell would run it; an output that is there already makes room."""
    for before, after in REPLACED.items():
        line = re.sub(rf"(?<![\w/]){re.escape(before)}(?!\w)", after, line)
    line = re.sub(r"^python (train|finetune)\.py", r"scfm-\1", line)
    name = re.match(r"scfm-(\w+)", line)[1]
    words = [*shlex.split(line), *SMALLER[name].split()]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    output = given.get("output") or (f"outputs/{given.get('name', name)}" if name in ("train", "finetune") else None)
    if output and Path(output).is_dir():
        shutil.rmtree(output)
    elif output:
        Path(output).unlink(missing_ok=True)
    run_command(shlex.join(words))


def run_block(block: Block, space: dict) -> None:
    """All its lines, or its Python in the names of its page."""
    if block.language == "python":
        text = block.text
        for before, after in SMALLER_PYTHON.items():
            text = text.replace(before, after)
        exec(compile(text, f"{block.page}:{block.line}", "exec"), space)
        return
    for line in block.lines:
        if not is_not_run(line):
            run_line(line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of all pages; README.md first makes the model that others read."""
    with pytest.MonkeyPatch.context() as patch:
        where = tmp_path_factory.mktemp("documented")
        patch.chdir(where)
        write_inputs()
        yield where


@pytest.mark.parametrize("page", [page for page in PAGES if page not in COMMANDS_ELSEWHERE])
def test_every_block_runs(folder, page, monkeypatch):
    import anndata as ad
    import matplotlib as mpl

    mpl.use("Agg")
    space = {"adata": ad.read_h5ad(folder / "cells.h5ad")}
    if page in OWN_FOLDER:
        (folder / "own").mkdir()
        monkeypatch.chdir(folder / "own")
    for block in blocks(page):
        if block.language in SHOWN or block.text.startswith(tuple(PYTHON_ELSEWHERE)):
            continue
        run_block(block, space)
        if (
            page == "README.md"
            and Path("outputs/pbmc/checkpoints/last.ckpt").exists()
            and not Path("Geneformer").exists()
        ):
            add_models()
            Path("stores/blood").symlink_to("pbmc")


def scfm_commands(page: str) -> list[str]:
    """Those of a page that are scfm's own: in blocks, and between the words."""
    lines = [line for block in blocks(page) if block.language not in SHOWN | {"python"} for line in block.lines]
    named = re.compile(r"(?:python |torchrun .*|deepspeed .*|sbatch docs/)?(?:scfm-|train|finetune)")
    return [line for line in [*lines, *inline_commands(page)] if named.match(line)]


def composed(line: str) -> None:
    """Compose and check a command; values that are missing or elided are the reader's.

    Raises:
        ValueError: a key that the command does not have, or a value of another kind.
    """
    found = re.search(r"(?:scfm-(\w+)|(train|finetune)\.(?:py|sbatch))\s*(.*)", line)
    name, rest = found[1] or found[2], re.sub(r"\\?\[?…\]?|\.\.\.\]?", "...", found[3])
    folders = re.findall(r"--config-dir (\S+)", rest)
    if folders or (name == "prepare" and rest.startswith("verify")):
        return  # files of the reader's own: tests/test_extending.py; no config
    words = [
        w
        for w in shlex.split(rest)
        if "=" in w.replace("~", "=") and not w.startswith(("-", "hydra")) and not w.endswith("...")
    ]
    words = [re.sub(r"^(analysis)=NAME$", r"\1=perturb", word) for word in words]
    words = [word if "," not in word or "[" in word else word.split(",")[0] for word in words]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, lenient(words))
    try:
        check(cfg, shipped(CONFIGS, name))
    except ValueError as error:
        lines = [line for line in str(error).splitlines() if line.startswith("  - ")]
        assert lines and all("is missing; give it a value" in line for line in lines), f"{line}\n{error}"


@pytest.mark.parametrize("page", all_pages())
def test_every_command_of_scfm_composes(page):
    for line in scfm_commands(page):
        composed(line)


def test_a_command_with_a_key_that_is_not_there_does_not_compose():
    with pytest.raises(AssertionError, match="head.labels"):
        composed("python finetune.py init_from=... store=... head.labels=cell_type")


def other_commands() -> list[str]:
    """All commands of all pages that are not scfm's own."""
    found = []
    for page in all_pages():
        lines = [line for block in blocks(page) if block.language not in SHOWN | {"python"} for line in block.lines]
        found += [line for line in [*lines, *inline_commands(page)] if line not in scfm_commands(page)]
    return found


def test_every_other_command_is_known_and_names_what_exists():
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    extras = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    options = "".join(path.read_text() for path in (REPOSITORY / "benchmarks").rglob("*.py"))
    for line in other_commands():
        assert is_not_run(line), f"{line}: run by no test, and not in NOT_RUN"
        if line.startswith("make "):
            assert line.split()[1] in targets, line
        if line.startswith("pip "):
            assert {name for found in re.findall(r"\[([\w,]+)\]", line) for name in found.split(",")} <= extras, line
        if line.startswith("python benchmarks/"):
            assert (REPOSITORY / line.split()[1]).is_file(), line
            assert all(f'"{option}"' in options for option in re.findall(r" (--[\w-]+)", line)), line


def test_the_table_of_what_is_not_run_has_no_row_too_many():
    lines = [line for page in all_pages() for block in blocks(page) for line in block.lines]
    lines += [line for page in all_pages() for line in inline_commands(page)]
    assert [row for row in NOT_RUN if not any(line.startswith(row) for line in lines)] == []
    pieces = [block.text for page in all_pages() for block in blocks(page) if block.language == "python"]
    assert [row for row in PYTHON_ELSEWHERE if not any(piece.startswith(row) for piece in pieces)] == []


def test_what_runs_elsewhere_is_there():
    for tests in COMMANDS_ELSEWHERE.values():
        assert all((REPOSITORY / path).exists() for path in tests.split(" and "))


def test_every_language_of_a_block_is_known():
    """A block that is neither run nor shown on purpose would escape."""
    assert {block.language for page in all_pages() for block in blocks(page)} <= SHOWN | {"", "bash", "python"}
