"""The pretrained model that comes with the package."""

from __future__ import annotations

from pathlib import Path

#: ``init_from=scfm://small`` is a model that comes with the package.
SCHEME = "scfm://"


def shipped_model(address: str) -> Path:
    """The checkpoint behind ``scfm://NAME``.

    ``scfm://small`` is ``experiment=atlas_small`` on 29,974 human cells of 13 open files, as 8-bit numbers: its card
    is ``docs/small_model.md``, and ``scripts/make_small_model.py`` makes it again.

    Raises:
        FileNotFoundError: no model of that name comes with this package.

    Example:
        >>> shipped_model("scfm://small").name
        'small.ckpt'
    """
    folder = Path(__file__).parent / "models"
    path = folder / f"{address.removeprefix(SCHEME)}.ckpt"
    known = ", ".join(SCHEME + file.stem for file in sorted(folder.glob("*.ckpt")))
    if path.parent != folder or not path.is_file():
        raise FileNotFoundError(f"no model {address} comes with this package; there is: {known or 'none'}")
    return path
