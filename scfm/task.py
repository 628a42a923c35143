"""What pretraining objectives and fine-tuning heads have in common: a module on a backbone, with checked hooks."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, ClassVar

from torch import nn

if TYPE_CHECKING:
    from scfm.batch import Batch
    from scfm.types import Backbone, Metrics

#: Names of hooks in earlier versions, and what to write instead.
RETIRED = {
    "annotate": "write(outputs), which returns Written(obs=...)",
    "project": "write(outputs), which returns Written(obsm=...)",
    "artifacts": "write(outputs), which returns Written(uns=...)",
    "consolidate": "update(outputs, targets)",
    "summarise": "summarize(outputs, targets)",
}


class Task(nn.Module):
    """A loss on a backbone: ``task(backbone, batch) -> {"loss": ...}``.

    Everything the framework may call beside ``forward`` is a *hook*: a method of the base class that does nothing
    until a subclass overrides it. A method that is no hook but looks like one, and a hook with other arguments, are
    refused when the class is made, so that a misspelled name is never silence.

    Attributes:
        causal: the backbone it needs; None takes either.
        hooks: names of the hooks that this class (or a parent below the base class) implements.
    """

    causal: ClassVar[bool | None] = None
    hooks: ClassVar[frozenset[str]] = frozenset()
    _KNOWN: ClassVar[dict[str, int]] = {}  # number of arguments by hook, self included

    def __init_subclass__(cls, *, hooks: tuple[str, ...] = (), **options: object) -> None:
        """Check the class's methods against the hooks; ``hooks`` names those that a base class introduces."""
        super().__init_subclass__(**options)
        if hooks:
            cls._KNOWN = {name: _n_arguments(getattr(cls, name)) for name in hooks}
            return
        own = {name: value for name, value in vars(cls).items() if inspect.isfunction(value)}
        for name, method in own.items():
            _require_hook(cls, name, method)
        inherited = [name for base in cls.__mro__[1:] if not _introduces(base) for name in vars(base)]
        cls.hooks = frozenset(name for name in cls._KNOWN if name in own or name in inherited)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` and other scalars to log. ``n_targets``, where present, is the weight of the batch in averages."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(backbone, batch)")


def _introduces(base: type) -> bool:
    """Whether a class brings hooks (a base class) or is no task at all and no mix-in of one."""
    return base in (nn.Module, Task, object) or ("_KNOWN" in vars(base) and bool(vars(base)["_KNOWN"]))


def _n_arguments(method: object) -> int:
    return len(inspect.signature(method).parameters)  # type: ignore[arg-type]


def _require_hook(cls: type[Task], name: str, method: object) -> None:
    """Refuse what looks like a hook and is none.

    Raises:
        TypeError: a misspelled or retired hook, or one with other arguments.
    """
    if name.startswith("_"):
        return
    where = f"{cls.__module__}.{cls.__qualname__}"
    if name in cls._KNOWN:
        required = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]  # type: ignore[arg-type]
        if _n_arguments(method) < cls._KNOWN[name] or len(required) > cls._KNOWN[name]:
            arguments = ", ".join(list(inspect.signature(getattr(cls.__mro__[1], name)).parameters)[1:])
            raise TypeError(f"{where}.{name} is a hook and is called with ({arguments}); give it these arguments")
        return
    if name in RETIRED:
        raise TypeError(f"{where}.{name} is no hook any more: write {RETIRED[name]}")
    near = difflib.get_close_matches(name, cls._KNOWN, n=1, cutoff=0.8)
    if near:
        raise TypeError(f"{where}.{name} looks like the hook {near[0]!r} but is not called; rename it")
