"""A tiny published model."""

import pytest

from published_folders import make_model, write_dictionaries


@pytest.fixture
def geneformer(tmp_path):
    """(folder, model) of a tiny Geneformer V2 with its dictionaries in the folder beside it."""
    folder = tmp_path / "repository" / "model"
    made = make_model("BertForMaskedLM")
    made.save_pretrained(folder)
    write_dictionaries(tmp_path / "repository" / "geneformer")
    return folder, made
