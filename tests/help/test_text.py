"""What ``--help`` prints."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import scfm
from scfm.help.keys import CONFIGS, read_command
from scfm.help.text import Help, answer, refuse_families

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_key_and_every_group_with_its_default(command):
    text, page = Help.read(command, width=80).show(), read_command(command)
    for key in page.keys:
        assert f"  {key.name}={key.default}" in text
    for group in page.groups:
        assert f"\n  {group}=" in text
    rows = text.removeprefix(Help.read(command).header).splitlines()
    assert all(len(line) <= 80 for line in rows if not line.startswith("  source.cells="))


def test_help_of_one_command_does_not_name_groups_of_another():
    assert "  head=" not in Help.read("train").show()
    assert "executor=local" in Help.read("prepare").show()
    assert "executor" not in Help.read("train").show()


@pytest.mark.parametrize(
    ("command", "topic", "shown"),
    [
        ("train", "objective", "objective=mlm_contrast"),
        ("train", "objective=ar", "objective.chunk=null"),
        ("train", "model.width", "model.width=128"),
        ("finetune", "head=annotation", "head=annotation/prototype"),
        ("finetune", "head/annotation/classifier", "head.reject=0.05"),
        ("finetune", "root_cell", "(of head=trajectory/pseudotime)"),
        ("prepare", "quality", "quality.max_mito=null"),
        ("prepare", "quality.max_mito", "share of counts in MT-*"),
        ("prepare", "max_mito", "share of counts in MT-*"),
        ("train", "data=demo", "source.group=lane"),
    ],
)
def test_help_on_a_topic(command, topic, shown):
    assert shown in answer(command, ["--help", topic])


def test_help_on_what_is_not_there_says_what_is_near():
    with pytest.raises(ValueError, match="did you mean trainer.max_steps"):
        answer("train", ["--help", "trainer.max_stepz"])
    with pytest.raises(ValueError, match="it has geneformer_v1_10m, "):
        answer("train", ["--help", "model=tyni"])


def test_no_help_no_answer():
    assert answer("train", ["store=stores/pbmc", "--cfg", "job"]) is None


def test_a_family_of_choices_is_refused_with_its_members():
    with pytest.raises(ValueError, match="head=annotation is a family") as raised:
        refuse_families(["init_from=x", "head=annotation"])
    assert {path.stem for path in (CONFIGS / "head/annotation").glob("*.yaml")} <= set(
        str(raised.value).replace("/", " ").split()
    )
    refuse_families([f"output={CONFIGS / 'head/annotation'}", "output=../head/annotation"])  # folders of the user's
    refuse_families(["head=annotation/classifier", "store=head", "data=mix", "output=configs/head", "model=tiny"])


def test_members_of_a_folder_of_ones_own_are_listed(tmp_path):
    (tmp_path / "head/mine").mkdir(parents=True)
    (tmp_path / "head/mine/age.yaml").write_text("# The donor's age.\n_target_: mine.Age\n")
    with pytest.raises(ValueError, match="head=mine/age  The donor's age"):
        refuse_families(["head=mine"], (CONFIGS, tmp_path))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_the_command_answers_without_importing_what_it_would_run():
    code = (
        "import sys; sys.argv = ['train.py', '--help']\nfrom scfm.cli import train\n"
        "try: train()\nexcept SystemExit as end: assert end.code == 0, end.code\n"
        "assert not {'torch', 'hydra', 'numpy', 'pandas', 'transformers'} & set(sys.modules)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "a folder made by scfm-prepare" in done.stdout


def test_version_is_that_of_scfm_and_of_the_package():
    done = run("train.py", "--version")
    assert done.stdout == f"scfm {scfm.__version__}\n"
    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"] == scfm.__version__


def test_a_family_ends_the_command_in_a_sentence():
    done = run("finetune.py", "head=annotation", "init_from=x")
    assert done.returncode == 1
    assert done.stderr.startswith("head=annotation is a family of heads; choose one of them:\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["python train.py objective=", "scfm-train objective="])
def test_the_shell_completes_choices(line, tmp_path):
    """What the documented installation of completion calls at every TAB."""
    script = str(REPOSITORY / "train.py")
    environment = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "PATH": "/usr/bin", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, script, "-sc", "query=bash"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert set(done.stdout.split()) >= {"objective=ar", "objective=mlm"}, done.stderr
