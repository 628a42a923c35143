"""The path of the whole config through a fine-tune, counted while one runs: functions get the part that they need."""

import sys
from collections.abc import Mapping
from pathlib import Path

import scfm
from scfm import checkpoint
from scfm.module import CellModule
from support import SMALL, command

PACKAGE = Path(scfm.__file__).parent
FAST = tuple(option for option in SMALL if not option.startswith("model."))
#: Keys by which a mapping is the config as a whole, be it Hydra's or in plain values.
KEYS = {"trainer", "head", "data", "optim", "store", "output"}


class Walk:
    """A profiler that notes the file of every function of scfm that is given the whole config, in order.

    A stay is a row of such functions in one file; a return is a stay in a file that was visited before. The checks of
    a config that a checkpoint brings back from disk are not counted.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self._open: list[tuple[object, str]] = []
        self._reading: object = None

    def __call__(self, frame, event, arg) -> None:
        if self._reading is not None:
            self._reading = None if event == "return" and frame is self._reading else self._reading
        elif event == "call" and frame.f_code in (checkpoint.read.__code__, CellModule.on_load_checkpoint.__code__):
            self._reading = frame
        elif event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)) and _is_given_all(frame):
            self._open.append((frame, str(Path(frame.f_code.co_filename).relative_to(PACKAGE))))
            self._visit()
        elif event == "return" and self._open and self._open[-1][0] is frame:
            self._open.pop()
            self._visit()

    def _visit(self) -> None:
        if self._open and self.files[-1:] != [self._open[-1][1]]:
            self.files.append(self._open[-1][1])

    @property
    def returns(self) -> int:
        return len(self.files) - len(set(self.files))


def _is_given_all(frame) -> bool:
    code = frame.f_code
    given = (frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return any(isinstance(value, Mapping) and value.keys() >= KEYS for value in given)


def test_a_fine_tune_hands_the_whole_config_on_a_few_times(train, made_store, tmp_path, monkeypatch):
    _, pretrained = train("trainer.max_steps=1", output="before")
    from scfm.commands import finetune

    run, walk = finetune.run, Walk()

    def watched(cfg):
        sys.setprofile(walk)
        try:
            return run(cfg)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(finetune, "run", watched)
    start = f"init_from={pretrained / 'checkpoints/last.ckpt'}"
    options = (start, f"store={made_store}", f"output={tmp_path / 'run'}", "head.label=cell_type")
    command("finetune", *options, *FAST, "trainer.max_steps=1")
    assert (tmp_path / "run/report.html").is_file()
    assert walk.files[0] == walk.files[-1] == "commands/finetune.py"
    assert len(walk.files) <= 9, walk.files
    assert walk.returns <= 4, walk.files
