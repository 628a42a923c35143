"""Folders as transformers writes them, of real and of small sizes, with random weights."""

from pathlib import Path

#: Arguments of ``scfm.load`` and keys ``tokenizer.*`` -> the published files of one release.
NAMES = {
    "token_dictionary": "token_dictionary",
    "gene_median": "gene_median_dictionary",
    "gene_mapping": "ensembl_mapping_dict",
}


def find_dictionaries(folder: Path, version: str) -> dict[str, str]:
    """The published dictionaries in a folder by the arguments of :func:`scfm.load`.

    Args:
        folder: holds them, or Geneformer's repository does.
        version: ``V1`` (25,426 tokens) or ``V2`` (20,275 tokens, called gc95M or gc104M).
    """
    releases = ("gc30M",) if version == "V1" else ("gc104M", "gc95M")
    places = [
        folder / below for below in ("", "geneformer", "gene_dictionaries_30m", "geneformer/gene_dictionaries_30m")
    ]
    found = [
        {key: str(place / f"{name}_{release}.pkl") for key, name in NAMES.items()}
        for release in releases
        for place in places
        if (place / f"token_dictionary_{release}.pkl").is_file()
    ]
    if not found:
        raise FileNotFoundError(f"{folder} has no token_dictionary_{releases[0]}.pkl of Geneformer {version}")
    return found[0]


def write_folder(folder: Path, sizes: dict[str, int], vocab_size: int, *, spread: float = 0.0) -> int:
    """Write a BERT with random weights, as ``save_pretrained`` does.

    Args:
        folder: made where it is not there.
        sizes: ``layers, width, heads, feedforward, positions``, as in ``configs/model``.
        vocab_size: V.
        spread: standard deviation of what is added to every initial weight. With the initial weights alone (0.02) the
            states of a token hardly depend on the other tokens, so that equal embeddings would show little.

    Returns:
        Number of parameters.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=sizes["width"], num_hidden_layers=sizes["layers"], hidden_act="relu",
        num_attention_heads=sizes["heads"], intermediate_size=sizes["feedforward"],
        max_position_embeddings=sizes["positions"],
    )  # fmt: skip
    made = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in made.parameters() if spread else ():
            parameter.add_(spread * torch.randn_like(parameter))
    made.save_pretrained(folder)
    return sum(parameter.numel() for parameter in made.parameters())


def yaml_sizes(name: str) -> dict[str, int]:
    """The sizes of ``configs/model/NAME.yaml``."""
    from omegaconf import OmegaConf

    from scfm.cli import CONFIGS

    sizes = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")
    return {key: int(sizes[key]) for key in ("layers", "width", "heads", "feedforward", "positions")}
