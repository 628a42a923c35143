"""Deletion of genes beside a plain restatement of the published loop, same weights, same process, one thread.

python benchmarks/perturb.py [--cells demo] [--n-cells 4] [--genes 24] [--published-batch 8] [--tokens 4096]

The model has the shape of Geneformer V1-10M (random weights), the cells the lengths of the shipped demo cells:
quantiles of the genes that they have. The published loop, restated: one cell at a time, sequences built in Python
lists, the whole masked language model with its scores over the vocabulary and all hidden states, the mean over tokens
of the penultimate layer, cosine to the centroid of the goal. Prints genes x cells for each CPU second of both, and the
largest difference of their shifts.
"""

import argparse
import copy
import time
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf

from scfm.analysis.perturbation.design import Design
from scfm.analysis.perturbation.operations import Change, Ranking
from scfm.analysis.perturbation.reader import Reader
from scfm.analysis.perturbation.shifts import Runner, make_states
from scfm.cli import CONFIGS
from scfm.config import build
from scfm.datasets.demo_cells import demo_file
from scfm.model.backbone import Backbone
from scfm.vocab import Vocab

V1_TOKENS, V1_LENGTH = 25_426, 2048


def v1_backbone(seed: int) -> tuple[Backbone, Vocab]:
    """The architecture of V1-10M with random weights, and a vocabulary of its size."""
    torch.manual_seed(seed)
    vocab = Vocab(("<pad>", "<mask>", *(f"G{i}" for i in range(V1_TOKENS - 2))), {"pad": 0, "mask": 1})
    node = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model/geneformer_v1_10m.yaml"))
    return build(node, vocab, causal=False).eval(), vocab


def real_lengths(cells: str, n: int) -> np.ndarray:
    """Numbers of genes of cells of a file, at n quantiles."""
    adata = anndata.read_h5ad(demo_file() if cells == "demo" else cells)
    detected = np.asarray((adata.X > 0).sum(axis=1)).ravel()
    return np.quantile(detected, (np.arange(n) + 0.5) / n).astype(int).clip(2, V1_LENGTH)


def plain_model(backbone: Backbone) -> torch.nn.Module:
    """The same weights in transformers' own class with its own attention."""
    config = copy.deepcopy(backbone.config)
    config._attn_implementation = "sdpa"
    model = type(backbone.model)(config).eval()
    model.load_state_dict(backbone.model.state_dict())
    return model


@torch.inference_mode()
def published_shifts(
    model: torch.nn.Module, cell: list[int], ranks: list[int], goal: torch.Tensor, size: int
) -> np.ndarray:
    """Shift towards the goal of the deletion of each rank, as the published perturber computes it."""

    def embed(rows: list[list[int]]) -> torch.Tensor:
        ids = torch.tensor(rows)
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        return out.hidden_states[-2].mean(dim=1)  # out.logits, (rows, L, V), is computed and not read

    original = torch.nn.functional.cosine_similarity(embed([cell]), goal[None])
    found = []
    for low in range(0, len(ranks), size):
        rows = [cell[:rank] + cell[rank + 1 :] for rank in ranks[low : low + size]]
        found.append(torch.nn.functional.cosine_similarity(embed(rows), goal[None]) - original)
    return torch.cat(found).double().numpy()


def main() -> None:
    """Run both, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="demo")
    parser.add_argument("--n-cells", type=int, default=4)
    parser.add_argument("--genes", type=int, default=24, help="deleted from each cell")
    parser.add_argument("--published-batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    backbone, vocab = v1_backbone(args.seed)
    lengths = np.r_[real_lengths(args.cells, args.n_cells), 400, 400]  # two cells of the goal
    lists = [rng.choice(np.arange(2, V1_TOKENS), n, replace=False).astype(np.int64) for n in lengths]
    chosen = [np.sort(rng.choice(n, min(args.genes, n), replace=False)) for n in lengths[:-2]]
    work = sum(map(len, chosen))
    print(f"{args.n_cells} cells of {', '.join(map(str, lengths[:-2]))} genes, {work} deletions, one thread")

    reader = Reader(backbone, vocab, ([], []), args.tokens, "cpu")
    state = np.r_[np.zeros(args.n_cells, int), 1, 1]
    rankings = [Ranking(genes, np.arange(len(genes), 0, -1.0), V1_LENGTH) for genes in lists]
    embeddings = reader.embed([ranking.listed for ranking in rankings])
    wanted = [set(genes[ranks].tolist()) for genes, ranks in zip(lists, chosen, strict=False)]
    frame = SimpleNamespace(obs=pd.DataFrame(index=range(len(lists))), rows=np.arange(len(lists)))

    def run(own: Reader) -> tuple[float, list[np.ndarray]]:
        """CPU seconds and shifts of all deletions."""
        began, ours = time.process_time(), []
        for cell, ranks in enumerate(chosen):
            sets = tuple((int(gene),) for gene in lists[cell][ranks])
            design = Design(frame, state, ("start", "goal"), state * 0, (), np.array([cell]), sets,
                            np.zeros(len(sets), bool), np.zeros(V1_TOKENS, int))  # fmt: skip
            states = make_states(design, embeddings, center=False, permutations=0, seed=0)
            rows = Runner(design, rankings, Change("delete", refill=False), own, states).run(
                np.array([cell]), lambda n: None
            )
            assert len(rows["set"]) == len(wanted[cell])
            ours.append(rows["shifts"][:, 1])
        return time.process_time() - began, ours

    own_seconds, ours = run(reader)
    half_seconds, half = run(Reader(backbone, vocab, ([], []), args.tokens, "cpu", bf16=True))

    model, goal = plain_model(backbone), torch.from_numpy(embeddings[-2:].mean(axis=0)).float()
    began, theirs = time.process_time(), []
    for cell, ranks in enumerate(chosen):
        theirs.append(published_shifts(model, lists[cell].tolist(), ranks.tolist(), goal, args.published_batch))
    published_seconds = time.process_time() - began

    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    print(f"scfm       {work / own_seconds:8.2f} genes x cells / CPU s  ({own_seconds:.1f} s)")
    print(f"scfm bf16  {work / half_seconds:8.2f} genes x cells / CPU s  ({half_seconds:.1f} s)")
    print(f"published  {work / published_seconds:8.2f} genes x cells / CPU s  ({published_seconds:.1f} s)")
    print(f"ratio      {published_seconds / own_seconds:8.2f}; largest difference of shifts {difference:.1e}")
    difference = max(float(np.abs(a - b).max()) for a, b in zip(half, theirs, strict=True))
    print(f"ratio bf16 {published_seconds / half_seconds:8.2f}; largest difference of shifts {difference:.1e}")


if __name__ == "__main__":
    main()
