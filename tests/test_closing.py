"""The block that ends a command, and the command line in it."""

import shlex

from scfm.closing import closing_block, command_line


def test_the_block_names_result_files_and_the_next_command_once():
    text = closing_block(["one", "two"], ["a.ckpt", "b.html"], "scfm-embed init_from=a.ckpt")
    assert text.splitlines() == [
        "", "result  one", "        two", "files   a.ckpt", "        b.html", "next    scfm-embed init_from=a.ckpt",
    ]  # fmt: skip
    assert "next" not in closing_block(["one"], ["a"])


def test_a_command_line_can_be_pasted_into_a_shell():
    line = command_line("embed", init_from="my runs/a (1).ckpt", head__label="cell type", output="...", key=None)
    assert shlex.split(line) == ["scfm-embed", "init_from=my runs/a (1).ckpt", "head.label=cell type", "output=..."]


def test_sentences_fit_80_columns_and_files_are_not_broken():
    path = "outputs/" + "a" * 120 + ".ckpt"
    lines = closing_block(["word " * 60], [path], f"scfm-embed init_from={path}").splitlines()
    assert max(map(len, lines[1:5])) <= 80
    assert lines[-2].endswith(path)
    assert sum("word" in line for line in lines) > 3
