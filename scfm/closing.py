"""How a command ends on the screen: the result, the files, the next command, in one block."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def closing_block(result: Sequence[str], files: Sequence[str | Path], next_command: str = "") -> str:
    """The block; each line has at most one file or sentence, so that it can be copied.

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
    rows = [("result", result), ("files", files), ("next", [next_command] if next_command else [])]
    lines = [f"{title if i == 0 else '':6}  {text}" for title, texts in rows for i, text in enumerate(texts)]
    return "\n".join(["", *lines])


def command_line(command: str, **keys: object) -> str:
    """``scfm-COMMAND key=value ...`` as a shell reads it; keys with two underscores have dots: ``head__label``.

    A value of ``...`` stands for something that only the user knows.
    """
    words = [f"{key.replace('__', '.')}={value}" for key, value in keys.items() if value is not None]
    return " ".join([f"scfm-{command}", *(word if word.endswith("=...") else shlex.quote(word) for word in words)])
