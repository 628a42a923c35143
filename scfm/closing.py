"""How a command ends on the screen: the result, the files, the next command, in one block."""

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

#: Letters of a sentence on a line, beside the eight of the title.
WIDTH = 72


def closing_block(result: Sequence[str], files: Sequence[str | Path], next_command: str = "") -> str:
    """The block. Sentences are wrapped to 80 columns; files and the command stand on lines of their own, to be copied.

    Args:
        result: sentences on what came out.
        files: written, the most important first.
        next_command: what one would type now; empty for none.

    Example:
        >>> print(closing_block(["2 cells."], ["out.h5ad"], "scfm-evaluate input=out.h5ad"))
        <BLANKLINE>
        result  2 cells.
        files   out.h5ad
        next    scfm-evaluate input=out.h5ad
    """
    sentences = [line for text in result for line in textwrap.wrap(text, WIDTH, break_long_words=False)]
    rows = [("result", sentences), ("files", files), ("next", [next_command] if next_command else [])]
    lines = [f"{title if i == 0 else '':6}  {text}" for title, texts in rows for i, text in enumerate(texts)]
    return "\n".join(["", *lines])


def command_line(command: str, **keys: object) -> str:
    """``scfm-COMMAND key=value ...`` as a shell reads it; keys with two underscores have dots: ``head__label``.

    A value of ``...`` stands for something that only the user knows.
    """
    words = [f"{key.replace('__', '.')}={value}" for key, value in keys.items() if value is not None]
    return " ".join([f"scfm-{command}", *(word if word.endswith("=...") else shlex.quote(word) for word in words)])
