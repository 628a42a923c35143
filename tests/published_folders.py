"""Folders as transformers writes them, with random weights, and published dictionaries of few genes."""

import json
import pickle

import numpy as np
import torch
import transformers

from scfm.data.packing import pack
from scfm.inference.load import restore_backbone
from scfm.types import Ragged

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


def cells(seed=0, n_specials=4):
    """Cells of unequal lengths, one of a single gene, as lists of token ids."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(GENES))[:n].astype(np.uint16) + n_specials for n in (12, 1, 33, 7)]


def packed(rows):
    """The cells in one batch."""
    lengths = [len(row) for row in rows]
    return pack(Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)])), np.arange(len(rows)))


def assert_same_states(checkpoint, model, n_specials=4):
    """Every hidden layer, and the scores where there are any, of cells packed in one row and of each cell alone."""
    backbone = restore_backbone(checkpoint).eval()
    rows = cells(n_specials=n_specials)
    with torch.inference_mode():
        theirs = [model(torch.tensor(row[None].astype(np.int64)), output_hidden_states=True) for row in rows]
        for batch, expected in [
            (packed(rows), theirs),
            *((packed([row]), [one]) for row, one in zip(rows, theirs, strict=True)),
        ]:
            for layer in range(backbone.n_layers + 1):
                states = torch.cat([one.hidden_states[layer][0] for one in expected])
                torch.testing.assert_close(backbone.hidden(batch, layer), states, atol=1e-5, rtol=1e-5)
            if type(model).__name__ in ("BertForMaskedLM", "GPT2LMHeadModel"):
                scores = torch.cat([one.logits[0] for one in expected])
                torch.testing.assert_close(backbone.logits(backbone(batch)), scores, atol=1e-5, rtol=1e-5)


def write_multitask(folder, *, attention):
    """As Geneformer's multi-task code saves it; the pooling as its formula for one cell without padding."""
    model = make_model("BertModel")
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    heads = [torch.nn.Linear(32, n) for n in (3, 2)]
    query = torch.randn(32, 1)
    weights = {f"bert.{name}": value for name, value in model.state_dict().items()}
    for i, head in enumerate(heads):
        weights |= {f"classification_heads.{i}.{name}": value for name, value in head.state_dict().items()}
    if attention:
        weights["attention_pool.attention_weights"] = query
    torch.save(weights, folder / "pytorch_model.bin")
    write_dictionaries(folder)

    def logits(row):
        states = model(torch.tensor(row[None].astype(np.int64))).last_hidden_state[0]
        pooled = (torch.softmax(states @ query, 0) * states).sum(0) if attention else states[0]
        return [head(pooled) for head in heads]

    return logits
