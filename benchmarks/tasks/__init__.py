"""The tasks of heads.py: what is prepared, fine-tuned and judged for each set of real cells."""

from collections.abc import Callable

from sets import CellSet

from tasks.annotation import annotation
from tasks.bench import Bench, Measure
from tasks.bench import Bench, Measure, Set
from tasks.bulk import bulk
from tasks.clustering import clustering
from tasks.compress import compress
from tasks.integration import integration
from tasks.phenotype import phenotype
from tasks.protein import protein
from tasks.pseudotime import pseudotime
from tasks.rejection import rejection
from tasks.shift import shift
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
    "phenotype": phenotype,
    "bulk": bulk,
    "clustering": clustering,
    "compress": compress,
    "shift": shift,
}
