"""A trained model for Python: it embeds, names and projects cells, and gives gene embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import pandas as pd
import torch

from scfm.checkpoint import Checkpoint
from scfm.config import build, compose_part, import_extensions
from scfm.head.base import Head, Written
from scfm.inference.cell_reader import CellReader
from scfm.inference.gene_table import Moments, make_gene_table
from scfm.inference.load import checkpoint_vocab, restore_predictor
from scfm.inference.options import EmbedOptions, embed_options
from scfm.inference.saved_model import save_model
from scfm.inference.state_table import make_state_table
from scfm.inference.write import changed_adata
from scfm.io import follow_link
from scfm.model.backbone import Backbone
from scfm.module import CellModule
from scfm.published.dictionaries import Dictionaries, DictionaryOptions
from scfm.published.export import DType, export_model
from scfm.published.folder import read_checkpoint
from scfm.vocab import Vocab

if TYPE_CHECKING:
    from anndata import AnnData

    from scfm.analysis.result import Result

KEY = "X_scfm"


class Model:
    """A checkpoint, loaded; made by :func:`load`. Numbers are those of ``scfm-embed``.

    Attributes:
        checkpoint: what was read: config, tokenizer, classes, path.
        module: backbone and head, in evaluation mode.
    """

    def __init__(self, checkpoint: Checkpoint, module: CellModule) -> None:
        self.checkpoint, self.module = checkpoint, module

    def __repr__(self) -> str:
        n = sum(parameter.numel() for parameter in self.backbone.parameters())
        head = "no head" if not self.head.hooks else f"head {type(self.head).__name__}"
        return f"Model({self.checkpoint.path}: {n:,} parameters, {len(self.vocab.gene_ids):,} genes, {head})"

    @property
    def backbone(self) -> Backbone:
        """The transformer."""
        return cast("Backbone", self.module.backbone)

    @property
    def head(self) -> Head:
        """The head; the base class itself, which predicts nothing, after pretraining alone."""
        return cast("Head", self.module.task)

    @property
    def vocab(self) -> Vocab:
        """The tokens."""
        return checkpoint_vocab(self.checkpoint)

    def to(self, device: str | torch.device) -> Model:
        """Move the model to a device, ``cuda`` say; returns itself."""
        self.module.to(device)
        return self

    def embed(
        self,
        cells: AnnData | str | Path,
        *,
        output: str | Path | None = None,
        copy: bool = False,
        key: str = KEY,
        overwrite: bool = False,
        progress: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> AnnData | Path | None:
        """Embed cells, and write all that ``scfm-embed`` writes: the embedding and what the head says.

        Args:
            cells: an AnnData in memory (counts in X, in a layer or in raw; genes by symbol or Ensembl id), or a file.
            output: of a file: the .h5ad to write; the input is never modified.
            copy: of an AnnData: leave it as it is and return a copy.
            key: of the embedding in ``obsm``; what a head reads has ``KEY_state``.
            overwrite: replace an output that exists.
            progress: show a progress bar.
            **options: see :class:`~scfm.inference.options.EmbedOptions`.

        Returns:
            The copy where ``copy``, the path of the output of a file, else None: the AnnData has new entries.

        Raises:
            FileNotFoundError, FileExistsError: no such input; an output that is there.
            ValueError: cells that cannot be read or have too few known genes, or arguments that do not go together.
        """
        reader = self._reader(progress)
        if isinstance(cells, (str, Path)):
            if output is None:
                raise ValueError(f"{cells} is a file: give output=..., the .h5ad to write; the input is never modified")
            reader.write_file(Path(cells), follow_link(output), key, options, overwrite=overwrite)
            return Path(output)
        if output is not None:
            raise ValueError("output=... is for a file; an AnnData in memory is written into, or copied by copy=True")
        return changed_adata(cells, reader.entries(cells, key, options), copy)

    def annotate(
        self, adata: AnnData, *, copy: bool = False, progress: bool = False, **options: Unpack[EmbedOptions]
    ) -> AnnData | None:
        """Write the obs columns of the head: names, confidences, pseudotime; arguments as for :meth:`embed`.

        Raises:
            ValueError: the checkpoint has no head that writes any.
        """
        entries = self._head_entries(adata, progress, options)
        if not entries.obs:
            raise ValueError(f"{self._about_head()} writes no obs columns; fine-tune head=annotation/... for names")
        return changed_adata(adata, Written(obs=entries.obs, uns=entries.uns), copy)

    def project(
        self, adata: AnnData, *, copy: bool = False, progress: bool = False, **options: Unpack[EmbedOptions]
    ) -> AnnData | None:
        """Write the obsm arrays of the head: an integrated space, a map; arguments as for :meth:`embed`.

        Raises:
            ValueError: the checkpoint has no head that writes any.
        """
        entries = self._head_entries(adata, progress, options)
        obsm = {name: values for name, values in entries.obsm.items() if name not in (KEY, f"{KEY}_state")}
        if not obsm:
            raise ValueError(f"{self._about_head()} projects nothing; fine-tune head=integration/... for a space")
        return changed_adata(adata, Written(obsm=obsm, uns=entries.uns), copy)

    def gene_embeddings(
        self, contextual: AnnData | str | Path | None = None, *, progress: bool = False, **options: Unpack[EmbedOptions]
    ) -> pd.DataFrame:
        """A vector for each gene of the vocabulary.

        Args:
            contextual: cells; the vector of a gene is then the mean over them of its hidden state, in the layer that
                cell embeddings are read from. None: the table of input embeddings.
            progress: show a progress bar.
            **options: see :class:`~scfm.inference.options.EmbedOptions`.

        Returns:
            (G, D) float32, genes by token; a gene that no cell has is NaN in a contextual table.
        """
        vocab = self.vocab
        ids = vocab.gene_ids
        if contextual is None:
            table = self._static()[ids]
        else:
            states, _ = self._reader(progress).gene_states(contextual, None, KEY, options, components=False)
            moments = states.moments.get(0) or Moments.zeros(len(vocab), self.backbone.width)
            table = moments.mean()[ids].astype(np.float32)
        return pd.DataFrame(table, index=pd.Index([vocab.tokens[i] for i in ids], name="gene"))

    def gene_table(
        self,
        cells: AnnData | str | Path,
        *,
        by: str | None = None,
        min_cells: int = 10,
        progress: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> AnnData:
        """Contextual vectors of genes with their spread, by group where wanted, beside simple gene vectors.

        Args:
            cells: an AnnData in memory, or a file.
            by: obs column, such as the cell type: a vector for each gene and group.
            min_cells: cells of a group that a gene must be in.
            progress: show a progress bar.
            **options: see :class:`~scfm.inference.options.EmbedOptions`.

        Returns:
            See :func:`scfm.inference.gene_table.make_gene_table`.

        Raises:
            ValueError: no such column, or no gene in so many cells.
        """
        states, components = self._reader(progress).gene_states(cells, by, KEY, options, components=True)
        return make_gene_table(states, self.vocab, self._static(), components, by=by, min_cells=min_cells)

    def state_table(
        self,
        cells: AnnData | str | Path,
        *,
        by: str,
        donor: str | None = None,
        min_cells: int = 10,
        progress: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> AnnData:
        """A vector for each state of cells: mean and geometric median of their embeddings, beside simple vectors.

        Args:
            cells: an AnnData in memory, or a file.
            by: obs column of the states, such as the cell type or the disease.
            donor: obs column of donors, whose number each state shows.
            min_cells: cells that a state must have.
            progress: show a progress bar.
            **options: see :class:`~scfm.inference.options.EmbedOptions`.

        Returns:
            See :func:`scfm.inference.state_table.make_state_table`.

        Raises:
            ValueError: no such column, or no state with so many cells.
        """
        vectors, obs = self._reader(progress).cell_vectors(cells, KEY, options)
        return make_state_table(vectors, obs, by=by, donor=donor, min_cells=min_cells)

    def _static(self) -> np.ndarray:
        """(V, D) float32, the table of input embeddings."""
        return self.module.backbone.model.get_input_embeddings().weight.detach().float().cpu().numpy()

    def analyse(
        self,
        analysis: str,
        cells: AnnData | str | Path,
        *,
        output: str | Path | None = None,
        overwrite: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> Result:
        """Ask the model about cells, as ``scfm-analyse`` does.

        Args:
            analysis: a file of ``configs/analysis/``: ``perturb``, ``genes``, ...
            cells: an AnnData in memory, or a file.
            output: folder for tables, figures and the report; None writes nothing.
            overwrite: replace an output that exists.
            progress: show progress.
            **options: keys of the analysis's yaml, and :class:`~scfm.inference.options.EmbedOptions`.

        Returns:
            ``tables``, ``figures``, ``summary``, ``notes``; ``write(folder)`` writes them.

        Raises:
            ValueError: an unknown analysis or option, or cells that do not fit.

        Example:
            >>> model.analyse("perturb", adata, genes=["SPI1"]).tables["genes"]    # doctest: +SKIP
        """
        reading: Any = {name: options.pop(name) for name in EmbedOptions.__annotations__ if name in options}
        settings = embed_options(KEY, reading)
        asked = build(compose_part("analysis", analysis, options))  # by name: an analysis stands above this room
        self.module.eval()
        return asked.analyse(self, cells, settings, output=output, overwrite=overwrite, progress=progress)

    def save(self, path: str | Path, *, int8: bool = False) -> Path:
        """Write the model, as it is now, as a checkpoint that every command reads; without optimizer state.

        ``int8=True`` stores matrices as 8-bit numbers with a scale for each row, a quarter of the file.

        Raises:
            FileExistsError: something lies there.
        """
        return save_model(self.checkpoint, self.backbone, self.head, Path(path), int8=int8)

    def export(self, folder: str | Path, *, dtype: DType = "float32", license: str | None = None) -> list[str]:
        """Write the model as a folder that transformers and the published tools read, as ``scfm-export`` does.

        An earlier export of the same run is replaced; ``license`` is for the card. Returns the names of the files.

        Raises:
            FileExistsError: the folder holds anything else.
            ValueError: a ``dtype`` other than ``float32``, ``bfloat16`` or ``float16``.
        """
        return export_model(self.checkpoint, self.backbone, self.head, folder, dtype=dtype, license=license)

    def _reader(self, progress: bool) -> CellReader:
        return CellReader(self.checkpoint, self.module, progress)

    def _head_entries(self, adata: AnnData, progress: bool, options: EmbedOptions) -> Written:
        if not embed_options(KEY, options).rule.is_own:
            raise ValueError("a head reads cells as it was trained: leave embedding_layer and embedding_pool out")
        return self._reader(progress).entries(adata, KEY, options)

    def _about_head(self) -> str:
        if not self.head.hooks:
            return f"{self.checkpoint.path} was pretrained only: it has no head, which"
        return f"the head {type(self.head).__name__} of {self.checkpoint.path}"


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    extensions: Sequence[str] = (),
    **dictionaries: Unpack[DictionaryOptions],
) -> Model:
    """Load a checkpoint of ``scfm-train`` or ``scfm-finetune``, or a published model; nothing in it is executed.

    Args:
        path: a .ckpt file, a folder of shards that ``scfm-consolidate`` has made readable, a folder of transformers
            (``config.json`` and weights), or ``hf://USER/NAME``.
        device: where the model computes.
        extensions: importable modules of your own that the checkpoint may name.
        **dictionaries: of a published model, where they do not lie beside it:
            see :class:`~scfm.published.dictionaries.Dictionaries`.

    Raises:
        FileNotFoundError: nothing lies there, or no dictionaries of a published model.
        ValueError: it is damaged, no checkpoint, or names what it must not.

    Example:
        >>> model = scfm.load("Geneformer/Geneformer-V1-10M")       # doctest: +SKIP
        >>> model.embed(adata)                                      # doctest: +SKIP
    """
    import_extensions(extensions)
    checkpoint = read_checkpoint(path, Dictionaries(**dictionaries))
    return Model(checkpoint, restore_predictor(checkpoint)).to(device)
