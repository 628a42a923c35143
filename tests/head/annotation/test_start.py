"""Where a classifier begins."""

import numpy as np
import pytest
import torch

from scfm.head.annotation.classifier import Classifier
from scfm.head.survey import Survey
from scfm.model.pooling import embed
from scfm.types import Ragged


def survey_of(backbone, vocab, batch, codes):
    offsets = batch.boundaries.numpy().astype(np.int64)

    def tokens(places):
        rows = [batch.ids[offsets[i] : offsets[i + 1]].numpy() for i in places]
        return Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))

    with torch.inference_mode():
        embedding = embed(backbone, batch, vocab).numpy().copy()
    n = len(codes)
    return Survey(np.arange(n), np.ones(n, dtype=bool), embedding, {"cell_type": codes}, tokens=tokens)


@pytest.mark.parametrize("genes", [0, 5])
def test_a_classifier_begins_with_what_a_probe_knows(genes, make_spec, make_batch, backbone):
    spec = make_spec()
    codes = np.arange(60) % 3
    survey = survey_of(backbone, spec.vocab, make_batch(codes), np.where(np.arange(60) % 2, codes, -1))
    head = Classifier(spec, label="cell_type", gene_components=genes)
    head.prepare(survey)
    new = make_batch(codes, seed=9)
    found = head.eval().predict(backbone, new)["logits"].argmax(1).numpy()
    assert (found == codes).mean() > 0.8
    plain = Classifier(spec, label="cell_type", gene_components=genes, probe=False)
    weight = plain.columns[0].layers[-1].weight.clone()
    plain.prepare(survey)
    torch.testing.assert_close(plain.columns[0].layers[-1].weight, weight)
