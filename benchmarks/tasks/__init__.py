"""The tasks of heads.py: what is prepared, fine-tuned and judged for each set of real cells."""

from collections.abc import Callable

from sets import CellSet

from tasks.alignment import alignment
from tasks.annotation import annotation
from tasks.bench import Bench, Measure
from tasks.integration import integration
from tasks.protein import protein
from tasks.pseudotime import pseudotime
from tasks.rejection import rejection
from tasks.trajectory import trajectory
from tasks.visualization import visualization

TASKS: dict[str, Callable[[Bench, Measure, CellSet, int], None]] = {
    "annotation": annotation,
    "rejection": rejection,
    "trajectory": trajectory,
    "pseudotime": pseudotime,
    "integration": integration,
    "visualization": visualization,
    "protein": protein,
    "alignment": alignment,
}
