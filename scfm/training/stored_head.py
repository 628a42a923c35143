"""Changes to the head of a checkpoint after training: prototypes, thresholds, new classes."""

from pathlib import Path

from scfm.checkpoint import TRAINED, WEIGHTS, read_state
from scfm.head.base import Head
from scfm.strategy.checkpoint_io import write_checkpoint


def update_head(path: str | Path, task: Head, *, keep_trained: bool = False) -> Path:
    """Put a head, changed without training, into its checkpoint; the rest of the file stays as it is.

    Args:
        path: a checkpoint file, or a folder of shards that ``scfm-consolidate`` made readable.
        task: the head; its ``class_names()`` replace the names inside.
        keep_trained: also keep the head as training left it, from which a run that is resumed goes on.

    Returns:
        The file.
    """
    path = Path(path)
    path = path / WEIGHTS if path.is_dir() else path
    state = read_state(path)
    if keep_trained and TRAINED not in state:
        state[TRAINED] = {name: value for name, value in state["state_dict"].items() if name.startswith("task.")}
    own = {f"task.{name}": value.cpu() for name, value in task.state_dict().items()}
    kept = {name: value for name, value in state["state_dict"].items() if not name.startswith("task.")}
    state["state_dict"] = {**kept, **own}
    classes = {column: list(names) for column, names in task.class_names().items()}
    state["scfm"]["classes"] = {**state["scfm"]["classes"], **classes}
    write_checkpoint(state, path)
    return path
