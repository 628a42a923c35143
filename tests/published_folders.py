"""Folders as transformers writes them, with random weights, and published dictionaries of few genes."""

import json
import pickle

import numpy as np
import torch
import transformers

GENES = [f"ENSG{number:011d}" for number in range(1, 41)]
SYMBOLS = [f"GENE{number}" for number in range(1, 41)]
SIZES = {
    "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 64, "hidden_act": "relu", "layer_norm_eps": 1e-12,
}  # fmt: skip


def write_dictionaries(folder, specials=("<pad>", "<mask>", "<cls>", "<eos>"), release="_gc104M"):
    """The three published dictionaries; ids as NumPy scalars, as V1 has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {token: np.int16(i) for i, token in enumerate([*specials, *GENES])}
    values = {
        "token_dictionary": tokens,
        "gene_median_dictionary": {gene: np.float64(1 + i / 7) for i, gene in enumerate(GENES)},
        "ensembl_mapping_dict": dict(zip(SYMBOLS, GENES, strict=True)) | {gene: gene for gene in GENES},
    }
    for name, value in values.items():
        (folder / f"{name}{release}.pkl").write_bytes(pickle.dumps(value, protocol=4))


def write_tokenizer(folder, specials):
    """A word-level ``tokenizer.json`` of symbols."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate([*specials, *SYMBOLS])}
    added = [{"id": i, "content": token, "special": True} for i, token in enumerate(specials)]
    text = json.dumps({"added_tokens": added, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}})
    (folder / "tokenizer.json").write_text(text)


def make_model(name, n_specials=4, seed=0, **config):
    """A transformers model with random weights, none of them at its initial zero or one."""
    torch.manual_seed(seed)
    model_class = getattr(transformers, name)
    if name.startswith("GPT2"):
        sizes = {"n_layer": 3, "n_embd": 32, "n_head": 2, "n_positions": 64, "n_inner": None}
    else:
        sizes = {**SIZES, "num_labels": 3}
    made = model_class(model_class.config_class(vocab_size=len(GENES) + n_specials, **{**sizes, **config}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()
