"""The command lines: one Hydra main each. What they do is imported when they do it, so that help answers at once."""

import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.help.text import answer, refuse_families
from scfm.imports.deferred import defer_torchmetrics
from scfm.io import allow_open_files
from scfm.metrics.direction import falls
from scfm.progress import keep_screen
from scfm.trust.allowed import CONFIGS

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

#: Each file is a command: ``scfm/commands/NAME.py`` with ``run(cfg)``, its keys in ``configs/NAME.yaml``.
COMMANDS = Path(__file__).resolve().parent / "commands"
_RUN = "A run that has saved a checkpoint goes on with ckpt_path=last."
_PARTS = "The same command goes on after the parts that are finished."
#: What a user does after Ctrl-C, where a command keeps what it has done.
_GO_ON = {"train": _RUN, "finetune": _RUN, "prepare": _PARTS, "embed": _PARTS}


def __getattr__(name: str) -> Callable[[], Any]:
    """``scfm.cli:NAME``, an entry point, is the command of that file."""
    if not name.startswith("_") and (COMMANDS / f"{name}.py").is_file():
        return partial(main, name)
    raise AttributeError(f"scfm.cli has no command {name!r}")


def main(command: str) -> Any:
    """Run ``scfm.commands.COMMAND.run(cfg)`` under Hydra with ``configs/COMMAND.yaml``; exit 1 on a user's error."""
    keep_screen()
    allow_open_files()
    try:
        return _main(command)
    except KeyboardInterrupt:
        sys.stderr.write(f"Ctrl-C: stopped. {_GO_ON.get(command, 'Nothing is written; run the same command again.')}\n")
        sys.exit(128 + signal.SIGINT)


def _main(command: str) -> Any:
    if command == "prepare" and sys.argv[1:2] == ["verify"]:  # no config: scfm-prepare verify STORE
        from scfm.commands.prepare import verify

        return _report_errors(lambda: verify(sys.argv[2:]))
    _answer(command)
    import hydra

    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]  # DeepSpeed's
    sys.argv[1:] = words if {"-sc", "--shell-completion"} & set(words) else lenient(words)
    trials: list[Trial] = []
    is_full = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own, longer report

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=command)
    def composed(cfg: "DictConfig") -> Any:
        return _report_errors(lambda: _run(command, cfg, trials))

    try:
        value = composed()
    except Exception as error:  # of Hydra, before the command runs
        if is_full or (sentence := _sentence_before_start(error)) is None:
            raise
        sys.exit(sentence)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = str(int(is_full))  # a later command of this process asks again
    if trials:
        sys.stderr.write(f"{trial_table(trials)}\n")  # Hydra has taken its logging down by now
        if all(trial.error for trial in trials):
            sys.exit(f"All {len(trials)} trials of the sweep failed.")
    return value


def _answer(command: str) -> None:
    """End here, with an answer, where the command line asks for help or names a family of choices."""
    try:
        folders = (CONFIGS, *config_folders(sys.argv[1:]))
        text = answer(command, sys.argv[1:], folders)
        refuse_families(sys.argv[1:] if text is None else (), folders)
    except ValueError as error:
        sys.exit(str(error))
    if text is not None:
        sys.stdout.write(f"{text}\n")
        sys.exit(0)


def _run(command: str, cfg: "DictConfig", trials: "list[Trial]") -> Any:
    import importlib

    from scfm.config import check, import_extensions, shipped

    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":  # a sign of life: libraries take seconds
        log.info("scfm-%s: loading libraries", command)
    _stay_where_typed()
    defer_torchmetrics()
    sys.path.append(str(Path.cwd()))  # a user's own parts: extensions=[my_module] beside where they work; last, so that
    # a file called html.py there hides no module of anyone else
    import_extensions(cfg.get("extensions") or ())
    check(cfg, shipped(CONFIGS, command))
    run = importlib.import_module(f"scfm.commands.{command}").run
    return _trial(run, cfg, trials) if _in_sweep() else run(cfg)


def _stay_where_typed() -> None:
    """Undo ``hydra.job.chdir=true``: paths of the command line are relative to where it was typed."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import get_original_cwd

    if HydraConfig.get().job.chdir:
        log.warning("Hydra's chdir is not followed: paths are relative to the folder of the command line.")
        os.chdir(get_original_cwd())


def _in_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        number: from 0.
        overrides: what was varied.
        metric: the name of the value.
        value: NaN where it failed.
        error: why, in a sentence; empty where it did not fail.
    """

    number: int
    overrides: str
    metric: str
    value: float
    error: str = ""


def _trial(run: Callable[["DictConfig"], Any], cfg: "DictConfig", trials: list[Trial]) -> Any:
    """One trial of a sweep, in a folder of its own; one that fails does not end the sweep.

    Raises:
        ValueError: several devices in the process that runs the sweep: Lightning would start the sweep on each.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra_cfg = HydraConfig.get()
    if hydra_cfg.launcher._target_.endswith("BasicLauncher") and cfg.trainer.devices not in (1, "1", "auto"):
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices} in a sweep on one machine: take trainer.devices=1, or "
            "hydra/launcher=slurm, which gives every trial a job of its own"
        )
    cfg.output = hydra_cfg.runtime.output_dir
    about = (hydra_cfg.job.num, hydra_cfg.job.override_dirname, str(cfg.get("metric")))
    try:
        value = run(cfg)
    except Exception as error:  # whatever ended this trial, the next one may do better
        log.error("Trial %s failed: %s", hydra_cfg.job.num, error)
        trials.append(Trial(*about, float("nan"), (str(error).splitlines() or [type(error).__name__])[0]))
        if "optuna" in hydra_cfg.sweeper._target_:
            raise  # it counts the trial as failed
        return float("nan")
    trials.append(Trial(*about, float("nan") if value is None else float(value)))
    return value


def trial_table(trials: Sequence[Trial]) -> str:
    """The trials of a sweep, best first, failed ones last."""
    sign = 1 if falls(trials[0].metric) else -1
    order = sorted(trials, key=lambda trial: (bool(trial.error), sign * trial.value))
    rows = [(str(t.number), t.error or f"{t.value:.6g}", t.overrides.replace("++", "")) for t in order]
    lines = [f"  {number:>3}  {result:<12}  {overrides}" for number, result, overrides in rows]
    return "\n".join([f"Trials by {trials[0].metric}, best first:", *lines])


def lenient(arguments: list[str]) -> list[str]:
    """Write overrides ``key=value`` as ``++key=value``, all but the choices of groups.

    Hydra stops at the first unknown key; so marked it lets them all pass, and :func:`scfm.config.check` reports them
    together, each with the nearest known key.
    """
    groups = set().union(*(_groups_of(folder) for folder in (CONFIGS, *config_folders(arguments))))
    sweep = not {"-m", "--multirun"}.isdisjoint(arguments)

    def rewrite(argument: str) -> str:
        key, equals, _ = argument.partition("=")
        if not equals or argument.startswith(("-", "~")):
            return argument
        bare = key.lstrip("+")
        is_group = bare.split("@")[0].split("/")[0] in groups and "." not in bare
        spelt = quoted(argument, sweep=sweep or is_group)
        plain_key = key.split(".")[0].isidentifier() and not key.startswith("hydra")
        return spelt if is_group or not plain_key else f"++{spelt}"

    return [rewrite(argument) for argument in arguments]


#: Keys whose value is one path or several, so that a comma in it belongs to a name.
_PATHS = {
    "input",
    "output",
    "store",
    "init_from",
    "ckpt_path",
    "checkpoint",
    "split",
    "alias",
    "folder",
    "layer",
    "dir",
}


def quoted(argument: str, *, sweep: bool = False) -> str:
    """``key=value`` with the value in quotes where Hydra's grammar would not read it as it stands.

    A path may hold any character: letters outside ASCII, quotes, brackets, braces, a comma, a newline. What Hydra can
    read stays as it is: numbers, lists, dictionaries, text that is in quotes already.

    Args:
        argument: of the command line.
        sweep: whether commas separate the values of a sweep.
    """
    key, _, value = argument.partition("=")
    if re.fullmatch(r"[\w./:+-]*", value, re.ASCII):
        return argument
    comma = "," in value and (os.path.exists(value) or (not sweep and key.split(".")[-1].lstrip("+") in _PATHS))
    if not (comma and value[0] not in "[{'\"") and _is_read_whole(value):
        return argument
    if value[:1] + value[-1:] == "[]" and not os.path.exists(value):
        items = [item.strip() for item in value[1:-1].split(",")]
        return f"{key}=[{','.join(item if _is_read_whole(item) else _in_quotes(item) for item in items)}]"
    return f"{key}={_in_quotes(value)}"


def _is_read_whole(value: str) -> bool:
    """Whether Hydra reads a value, and where it is text the very same text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    found = override.value()
    return isinstance(override._value, QuotedString) or not isinstance(found, str) or found == value


def _in_quotes(value: str) -> str:
    """Text in single quotes, as Hydra reads it: backslashes count as such unless a quote follows."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]  # quoted by hand, around a quote
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders that a command line names with ``--config-dir``."""
    folders = []
    for i, argument in enumerate(arguments):
        if argument.startswith(("--config-dir=", "-cd=")):
            folders.append(Path(argument.split("=", 1)[1]))
        elif argument in ("--config-dir", "-cd") and i + 1 < len(arguments):
            folders.append(Path(arguments[i + 1]))
    return folders


def _groups_of(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()


def _report_errors(command: Callable[[], Any]) -> Any:
    """Users' errors end in one sentence on the screen and exit status 1; others keep their traceback."""
    try:
        return command()
    except Exception as error:
        sentence = _sentence_for_user(error)
        if sentence is None or log.isEnabledFor(logging.DEBUG):
            raise
        log.error("%s", sentence)
        log.info("Run with hydra.verbose=true to see where this was raised.")
        sys.exit(1)


def _sentence_before_start(error: Exception) -> str | None:
    """What is said of an error that Hydra met when it read the command line or made the folder and log of a run."""
    from hydra.errors import CompactHydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, CompactHydraException | OmegaConfBaseException):
        return "\n".join(str(one) for one in (error, error.__cause__) if one is not None)
    cause = error if error.__cause__ is None else error.__cause__
    return None if log.isEnabledFor(logging.DEBUG) or not isinstance(cause, OSError) else _sentence_for_user(cause)


def _sentence_for_user(error: Exception) -> str | None:
    """What is said of an error that a user can do something about; None for others."""
    if isinstance(error, MemoryError):
        return f"the memory is full ({error}); take fewer cells or tokens at a time"
    if type(error).__module__.partition(".")[0] == "wandb":
        return f"W&B: {error}; log in with wandb login, or keep the run here (logger.wandb.offline=true)"
    if isinstance(error, OSError) and error.errno == errno.EROFS and error.filename is not None:
        return f"{error.filename} cannot be written: its file system is read-only; choose another place"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "too many files are open at a time: allow more (ulimit -n 4096), or take fewer workers"
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        return str(error.strerror)
    return str(error) if isinstance(error, ValueError | OSError | ImportError) else None
