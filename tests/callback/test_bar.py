"""Progress on the screen: a bar on a terminal, lines elsewhere, and no log line within a bar."""

import logging
import os
import pty
import re
import subprocess
import sys
import termios

from tqdm import tqdm

from scfm.progress import Screen
from support import SMALL

OPTIONS = [word for word in SMALL if "progress" not in word] + ["trainer.max_steps=4", "trainer.log_every_n_steps=2"]


def command(store, output) -> list[str]:
    code = "from scfm.cli import train; train()"
    return [sys.executable, "-c", code, f"store={store}", f"output={output}", *OPTIONS]


def test_a_log_has_lines_and_no_bar(made_store, tmp_path):
    done = subprocess.run(command(made_store, tmp_path / "run"), capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "\r" not in said
    assert "Epoch 0" not in said
    assert [line.split(" loss")[0] for line in said.splitlines() if line.startswith("step ")] == ["step 2", "step 4"]


def test_a_terminal_has_the_bar_and_no_lines(made_store, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(command(made_store, tmp_path / "run"), stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # the other end is closed
        pass
    assert process.wait(120) == 0, said.decode()
    assert b"Epoch 0" in said
    assert b"step 2 loss" not in said


def test_the_bar_fits_80_columns_and_names_no_loader(made_store, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    words = [*command(made_store, tmp_path / "run"), "validate_every=2", "data.test=0.2"]
    process = subprocess.Popen(words, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:
        pass
    assert process.wait(120) == 0, said.decode()
    bars = [line for line in re.split(r"[\r\n]", said.decode()) if "it/s" in line and "loss=" in line]
    assert bars and all(len(line) <= 80 and "tokens/s=" in line and line.rstrip().endswith("]") for line in bars[-1:])
    assert "tokens_per_s" not in bars[-1]


def test_cells_of_a_prediction_are_counted(caplog):
    from types import SimpleNamespace

    from scfm.callback.bar import CellBar

    bar = CellBar("Embedding", 10)
    bar.done = 4
    trainer = SimpleNamespace(is_global_zero=True, world_size=2)
    with caplog.at_level("INFO"):
        bar.on_predict_start(trainer, None)
        for _ in range(3):
            bar.on_predict_batch_end(trainer, None, None, SimpleNamespace(n_cells=1), 0)
        bar.on_predict_end(trainer, None)
    assert "4 of 10 cells were done by an earlier start" in caplog.text
    assert "Embedding: 6 cells in" in caplog.text


def test_a_line_is_written_above_the_bar(capsys):
    handler = Screen(sys.stderr)
    with tqdm(total=9, file=sys.stderr, desc="bar", mininterval=0) as bar:
        bar.update(3)
        handler.emit(logging.LogRecord("scfm", logging.INFO, __file__, 1, "a line", None, None))
        bar.update(3)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "a line" in lines


def test_a_bar_names_what_it_counts(caplog):
    from scfm.progress import Progress

    with caplog.at_level("INFO"), Progress("Shuffling", 10, done=4, unit="permutation") as bar:
        bar.advance(6)
    assert "4 of 10 permutations were done" in caplog.text
    assert "6 permutations in" in caplog.text and "cell" not in caplog.text
