"""Pictures. Every function returns a Matplotlib figure; nothing is shown, no global state is touched.

Colors are told apart by color-blind readers up to eight categories (Okabe & Ito, 2008); more categories have colors and
marker shapes of their own, so that color alone never has to carry a difference.
"""

from scfm.plot.cell_maps import draw_cells, maps, umap
from scfm.plot.classes import confusion_matrix, rejection_curve, reliability_diagram
from scfm.plot.figure import make_figure, render, save, write
from scfm.plot.numbers import figure_numbers, save_numbers
from scfm.plot.samples import attention_by_type, attention_histogram, roc_curves
from scfm.plot.scores import score_bars, shot_curves, stage_violins
from scfm.plot.training import training_curves
from scfm.plot.trends import gene_trends, smooth

__all__ = [
    "attention_by_type",
    "attention_histogram",
    "confusion_matrix",
    "draw_cells",
    "figure_numbers",
    "gene_trends",
    "make_figure",
    "maps",
    "rejection_curve",
    "reliability_diagram",
    "render",
    "roc_curves",
    "save",
    "save_numbers",
    "score_bars",
    "shot_curves",
    "smooth",
    "stage_violins",
    "training_curves",
    "umap",
    "write",
]
