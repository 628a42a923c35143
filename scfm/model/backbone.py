"""Transformers' own models, run on packed rows of cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import transformers
from torch import nn

from scfm.batch import INPUT_VECTORS, Batch
from scfm.model import attention
from scfm.model.architecture import build_config, find_class
from scfm.model.denoiser import Denoiser
from scfm.model.flops import Work
from scfm.model.pooling import check_rule
from scfm.model.readout import Readout
from scfm.vocab import Vocab


class Backbone(nn.Module):
    """A transformers language model that reads packed cells.

    The model is transformers' class as it is, under ``model``: published checkpoints load into it, and
    ``model.save_pretrained`` exports it. No pad token and no attention mask reach it: cells lie one after the other in
    one row, positions restart with each, and attention stays inside them (see :mod:`scfm.model.attention`).

    Attributes:
        model: the transformers model.
        config: its configuration.
        row: see below.
        width, causal, n_positions, n_layers, embedding_layer, embedding_pool: see :class:`scfm.types.Backbone`.
        readout: the weights of ``embedding_pool=weighted``, else None.
        feedforward: width of the feed-forward layers.
        transform: what the model does to hidden states before it scores the vocabulary, (N, D) -> (N, D).
        decoder: the last linear layer, (N, D) -> (N, V), tied to the token embeddings.

    Args:
        vocab: the tokens.
        causal: whether a token sees only what is before it; the objective says so.
        architecture: ``auto`` is BERT or, when causal, GPT-2; ``bert``, ``gpt2`` or the name of any masked or causal
            language model of transformers fix it.
        layers: number of layers.
        width: D.
        heads: attention heads; ``width / heads`` of 64 or 128 is fastest on GPUs.
        feedforward: width of the feed-forward layers.
        positions: length of the table of positions.
        max_length: longest cell that is accepted, in tokens; ``positions`` by default. Published models have more
            positions than were ever trained.
        activation: of the feed-forward layers, by transformers' name.
        dropout: of embeddings and layers' outputs.
        attention_dropout: of the attention weights. It slows the CPU path and the CUDA path has none.
        embedding_layer: layer whose states make cell embeddings (index into input embeddings, layer 1, ..., layer n).
        embedding_pool: how they are pooled: ``mean``, ``all``, ``cls`` or ``first`` (see :mod:`~scfm.model.pooling`),
            ``weighted`` (see :class:`~scfm.model.readout.Readout`) or ``denoised`` (see
            :class:`~scfm.model.denoiser.Denoiser`).
        embedding_value: what ``weighted`` weighs a token of a cell by, ``counts`` or ``rank``.
        embedding_input: weight of the input embeddings beside the states in ``weighted``.
        embedding_length: tokens of a cell that are read to embed it from a file, at most; None: as many as in training.
        layer_length: tokens of a cell that the layers read, the most expressed first; None: all. ``denoised`` reads the
            gene axes of the others too.
        compile: compile the layers with ``torch.compile``; names in the state dict do not change.
        compile_mode: mode of ``torch.compile``; ``reduce-overhead`` captures CUDA graphs and wants a constant ``row``.
        row: top every row up to this many tokens with dummy cells, so that compiled layers see one shape; at least
            the loader's tokens per batch. None leaves rows as they come.
        checkpointing: recompute the layers' activations in the backward pass instead of keeping them.
        options: any other key of the architecture's configuration.

    Raises:
        ValueError: an architecture of the other causality, or an unknown one; a key its configuration does not have;
            sizes that do not fit together.
    """

    def __init__(
        self,
        vocab: Vocab,
        causal: bool,
        *,
        architecture: str = "auto",
        layers: int = 6,
        width: int = 256,
        heads: int = 4,
        feedforward: int = 512,
        positions: int = 2048,
        max_length: int | None = None,
        activation: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        embedding_layer: int = -1,
        embedding_pool: str = "mean",
        embedding_value: Literal["counts", "rank"] = "counts",
        embedding_input: float = 4.0,
        embedding_length: int | None = None,
        layer_length: int | None = None,
        compile: bool = False,
        compile_mode: str = "default",
        row: int | None = None,
        checkpointing: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        sizes: Mapping[str, Any] = {
            "layers": layers,
            "width": width,
            "heads": heads,
            "feedforward": feedforward,
            "positions": positions,
            "activation": activation,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
        }
        model_class = find_class(architecture, causal)
        self.config = build_config(model_class, vocab, sizes, options or {}, causal, attention.NAME)
        self.model: transformers.PreTrainedModel = model_class(self.config)
        self.causal = causal
        self.width, self.n_layers, self.feedforward = width, layers, feedforward
        self.n_positions = positions if max_length is None else max_length
        self.embedding_layer, self.embedding_pool = embedding_layer, embedding_pool
        self.layer_length = layer_length
        self.readout = self._make_readout(embedding_value, embedding_input, dropout)
        self._check(positions, embedding_length)
        check_rule(embedding_layer, embedding_pool, layers)
        if embedding_pool == "cls":
            vocab.special("cls")
        self.row = row
        if checkpointing:
            self._recompute_activations()
        if compile:
            self.compile_layers(mode=compile_mode)
        self.train()

    def _make_readout(self, value: Literal["counts", "rank"], input_weight: float, dropout: float) -> Readout | None:
        size = self.config.vocab_size
        if self.embedding_pool == "weighted":
            return Readout(size, value, input_weight)
        if self.embedding_pool == "denoised":
            return Denoiser(size, self.width, dropout)
        return None

    def _check(self, positions: int, embedding_length: int | None) -> None:
        if self.layer_length is not None and self.layer_length < 1:
            raise ValueError(f"model.layer_length={self.layer_length}; expected 1 token or more, or null")
        if not 1 <= self.n_positions <= positions:
            raise ValueError(f"max_length={self.n_positions} must lie between 1 and positions={positions}")
        if embedding_length is not None and not 1 <= embedding_length <= self.n_positions:
            raise ValueError(
                f"model.embedding_length={embedding_length}; expected 1 to {self.n_positions} tokens, or null"
            )

    def _recompute_activations(self) -> None:
        # older releases of transformers 5 know it by the second name alone
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(getattr(self.model, name) for name in names if hasattr(self.model, name))
        enable({"use_reentrant": False})

    def forward(self, batch: Batch) -> torch.Tensor:
        """Last hidden states.

        Args:
            batch: packed cells.

        Returns:
            (T, D).

        Raises:
            ValueError: a cell longer than ``n_positions``.
        """
        return _row(self._run(batch).last_hidden_state, batch)

    def hidden(self, batch: Batch, layer: int) -> torch.Tensor:
        """Hidden states after one layer.

        Args:
            batch: packed cells.
            layer: Python index into [input embeddings, layer 1, ..., layer n]; the last one includes the model's
                final norm where it has one.

        Returns:
            (T, D).

        Raises:
            ValueError: a cell longer than ``n_positions``, or no such layer.
        """
        if not -self.n_layers - 1 <= layer <= self.n_layers:
            raise ValueError(f"layer {layer} of a model with {self.n_layers} layers; 0 is the input, -1 the last layer")
        if layer in (-1, self.n_layers):
            return self(batch)
        return _row(self._run(batch, output_hidden_states=True).hidden_states[layer], batch)

    def attentions(self, batch: Batch, *, mean_heads: bool = False) -> list[list[torch.Tensor]]:
        """Attention weights of every head, computed in the open: slow, and L² memory a cell, layer and head.

        Args:
            batch: packed cells.
            mean_heads: keep the mean of the heads alone, (1, L, L): long cells need the memory.

        Returns:
            For each layer, for each cell, (heads, L, L) float32: query × key, rows of sum 1.

        Raises:
            ValueError: a cell longer than ``n_positions``.
        """
        maps: list[list[torch.Tensor]] = []
        self._run(batch, attention_maps=maps, mean_heads=mean_heads)
        return [cells[: batch.n_cells] for cells in maps]

    def input_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings of tokens, (N,) -> (N, D), before positions are added."""
        return self.model.get_input_embeddings()(ids)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, (N, D) -> (N, V). Call it on the predicted positions alone."""
        return self.decoder(self.transform(hidden))

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        found = (m for m in self.model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == self.n_layers)
        return next(found)

    @property
    def decoder(self) -> nn.Module:
        """The model's last linear layer."""
        return self.model.get_output_embeddings()

    @property
    def transform(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What comes before the last linear layer: BERT's dense, activation and norm; nothing in GPT-2."""
        model: Any = self.model
        if hasattr(model, "cls"):
            return model.cls.predictions.transform
        if getattr(model, "lm_head", None) is self.decoder:
            return nn.Identity()
        if hasattr(model, "head"):
            return model.head
        raise ValueError(
            f"{type(self.model).__name__} has a prediction head of an unknown kind; use an architecture whose head is "
            "BERT's (cls), ModernBERT's (head) or a plain lm_head"
        )

    def work(self, predicted: float) -> Work:
        """FLOPs of a training step, for throughput figures.

        Args:
            predicted: predicted tokens / tokens.
        """
        transform = not isinstance(self.transform, nn.Identity)
        return Work(self.n_layers, self.width, self.feedforward, self.config.vocab_size, transform, predicted)

    def compile_layers(self, **options: Any) -> None:
        """Compile each layer in place: one graph serves all of them, and names in the state dict stay.

        Args:
            **options: passed to ``torch.compile``.
        """
        for layer in self.layers:
            layer.compile(**{"dynamic": self.row is None, **options})

    def _run(self, batch: Batch, **options: Any) -> Any:
        if batch.longest > self.n_positions:
            raise ValueError(
                f"a cell has {batch.longest} tokens, but {type(self.model).__name__} reads at most {self.n_positions}; "
                f"prepare the cells with max_length={self.n_positions} or take a model with more positions"
            )
        if self.row is not None:
            batch = batch.padded_to(self.row, self.n_positions)
        given = batch.token_fields.get(INPUT_VECTORS)
        return self.model.base_model(
            **({"input_ids": batch.ids[None]} if given is None else {"inputs_embeds": given[None]}),
            position_ids=batch.positions[None],
            boundaries=batch.boundaries,
            longest=batch.longest,
            use_cache=False,
            **options,
        )


def _row(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(1, T or more, D) -> (T, D), without a copy in the backward pass where nothing is cut off."""
    row = hidden.squeeze(0)
    return row if len(row) == batch.n_tokens else row[: batch.n_tokens]


def count_parameters(build: Callable[[], nn.Module]) -> int:
    """Number of parameters of a model, without allocating them; tied ones count once.

    Args:
        build: makes the model.

    Returns:
        Number of scalars.
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())
