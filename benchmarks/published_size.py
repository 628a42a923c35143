"""Memory and time of embedding cells with a published model of real size, random weights, one thread.

python benchmarks/published_size.py DICTIONARIES [--model geneformer_v2_316m] [--n-cells 200] [--length 128]
python benchmarks/published_size.py DICTIONARIES --model geneformer_v1_10m --compare

DICTIONARIES is the folder of the published dictionaries (``token_dictionary_gc104M.pkl``, ...). Writes a folder of
transformers with the sizes of ``configs/model/NAME.yaml``, imports it in a process of its own, embeds the first demo
cells cut to ``--length`` tokens, and prints seconds and the memory of that process at its steps: the resident set
after import of scfm, after reading the cells, after the model is there, and its peak at the end, in GB. With
``--compare`` it prints the largest difference of hidden states (of every layer) and of scores from those of
transformers' own class instead, for three cells packed in one row and for each alone.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from published_folders import find_dictionaries, write_folder, yaml_sizes

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def main() -> None:
    """Write the folder, measure a process that embeds with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionaries", type=Path)
    parser.add_argument("--model", default="geneformer_v2_316m")
    parser.add_argument("--n-cells", type=int, default=200)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--compare", action="store_true", help="with transformers, in place of the measurement")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is not None:
        embed(given.folder, given)
        return
    from scfm.tokenizer.dictionary import read_tokens

    size = len(read_tokens(find_dictionaries(given.dictionaries, version(given.model))["token_dictionary"]))
    with tempfile.TemporaryDirectory() as folder:
        n = write_folder(Path(folder), yaml_sizes(given.model), size, spread=0.05 if given.compare else 0.0)
        if given.compare:
            print(json.dumps({"model": given.model, "parameters": n, **differences(Path(folder), given)}))
            return
        command = [sys.executable, __file__, str(given.dictionaries), "--folder", folder, "--model", given.model]
        command += ["--n-cells", str(given.n_cells), "--length", str(given.length)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD})
    print(json.dumps({"model": given.model, "parameters": n, "length": given.length, **json.loads(done.stdout)}))


def embed(folder: Path, given: argparse.Namespace) -> None:
    """What the measured process does: import the folder, embed the cells, print one line of JSON."""
    import anndata
    import numpy as np

    import scfm
    from scfm.datasets.demo_cells import demo_file

    found = {"libraries_gb": resident()}
    adata = anndata.read_h5ad(demo_file())[: given.n_cells].copy()
    found["cells_gb"] = resident()
    began = time.perf_counter()
    files = find_dictionaries(given.dictionaries, version(given.model))
    model = scfm.load(folder, max_length=given.length, **files)
    loaded = time.perf_counter()
    found |= {"model_gb": resident(), "model_peak_gb": peak()}
    model.embed(adata, tokens_per_batch=4096)
    found |= {"import_s": loaded - began, "embed_s": time.perf_counter() - loaded, "cells": adata.n_obs}
    found["finite"] = bool(np.isfinite(adata.obsm["X_scfm"]).all())
    print(json.dumps({name: round(value, 2) for name, value in found.items()} | {"peak_gb": round(peak(), 2)}))


def differences(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Largest differences from transformers' own class: hidden states of all layers, scores; packed and alone."""
    import numpy as np
    import torch
    from transformers import BertForMaskedLM

    import scfm
    from scfm.data.packing import pack
    from scfm.types import Ragged

    model = scfm.load(folder, **find_dictionaries(given.dictionaries, version(given.model)))
    theirs, ours = BertForMaskedLM.from_pretrained(folder).eval(), model.backbone
    rng, genes = np.random.default_rng(0), np.array(model.vocab.gene_ids)
    cells = [rng.permutation(genes)[:n] for n in (ours.n_positions, 300, 1)]
    found: dict[str, float] = {}
    with torch.inference_mode():
        expected = [theirs(torch.from_numpy(cell)[None], output_hidden_states=True) for cell in cells]
        for name, groups in (("packed", [[0, 1, 2]]), ("alone", [[0], [1], [2]])):
            for group in groups:
                rows = [cells[i] for i in group]
                ends = np.cumsum([0, *map(len, rows)])
                batch = pack(Ragged(np.concatenate(rows), ends), np.arange(len(rows)))
                for layer in range(ours.n_layers + 1):
                    states = torch.cat([expected[i].hidden_states[layer][0] for i in group])
                    note(found, f"states_{name}", ours.hidden(batch, layer), states)
                scores = torch.cat([expected[i].logits[0] for i in group])
                note(found, f"scores_{name}", ours.logits(ours(batch)), scores)
    return found


def note(found: dict[str, float], name: str, ours: Any, theirs: Any) -> None:
    """Keep the largest difference, and the standard deviation of the values beside it."""
    found[name] = max(found.get(name, 0.0), float((ours - theirs).abs().max()))
    found[f"{name}_sd"] = round(float(theirs.std()), 3)


def version(model: str) -> str:
    """``V1`` or ``V2``, from the name of a yaml."""
    return "V1" if "v1" in model else "V2"


def resident() -> float:
    """Resident memory of this process now, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
