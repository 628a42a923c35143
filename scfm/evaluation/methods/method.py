"""What is compared: each method is a record, so that nothing has to be read out of its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

#: ``ours``: the embedding in question and what was trained with it; ``rival``: what a user would take instead;
#: ``control``: knows nothing, or only the answer; ``ablation``: a part or an earlier state of ours.
Role = Literal["ours", "rival", "control", "ablation"]

#: Spaces that :mod:`scfm.evaluation.origin.backbones` and :mod:`scfm.evaluation.methods.components` make.
FROZEN, UNTRAINED, COMPONENTS = "frozen backbone", "random weights", "gene components"
#: What is fitted on a space.
LINEAR, NEAREST = "linear probe", "15 nearest"


@dataclass(frozen=True)
class Method:
    """One method of a comparison.

    Attributes:
        name: how tables and pictures call it; unique in a table.
        space: the features that it reads: a key of obsm, or the name of a baseline.
        model: what is fitted on them; empty where the space itself is scored.
        role: what it is in the comparison.
    """

    name: str
    space: str
    model: str
    role: Role


def probe(space: str, model: str, role: Role) -> Method:
    """A model that is fitted on a space."""
    return Method(f"{space}, {model}", space, model, role)


def names(methods: Iterable[Method], *roles: Role) -> list[str]:
    """Names of the methods that have one of these roles, in their order."""
    return [method.name for method in methods if method.role in roles]
