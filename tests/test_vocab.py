"""The vocabulary: its roles, its hash, its refusals."""

import json

import pytest

from scfm.vocab import MAX_SIZE, Vocab

VOCAB = Vocab(("<pad>", "<mask>", "A", "patient", "B"), {"pad": 0, "mask": 1}, (3,))


def test_genes_are_what_is_neither_special_nor_word():
    assert VOCAB.gene_ids.tolist() == [2, 4]
    assert VOCAB.ids["B"] == 4
    assert VOCAB.special("mask") == 1
    assert len(VOCAB) == 5


def test_state_goes_through_json_and_keeps_the_hash():
    again = Vocab.from_dict(json.loads(json.dumps(VOCAB.to_dict())))
    assert again == VOCAB
    assert again.hash == VOCAB.hash


@pytest.mark.parametrize(
    "other",
    [
        Vocab(("<pad>", "<mask>", "B", "patient", "A"), {"pad": 0, "mask": 1}, (3,)),
        Vocab(VOCAB.tokens, {"pad": 1, "mask": 0}, (3,)),
        Vocab(VOCAB.tokens, {"pad": 0, "mask": 1}),
    ],
)
def test_anything_that_differs_changes_the_hash_and_is_refused(other):
    assert other.hash != VOCAB.hash
    with pytest.raises(ValueError, match=f"{VOCAB.hash[:12]}.*{other.hash[:12]}"):
        VOCAB.require_same(other, "a.ckpt", "the store b")


def test_order_of_roles_is_not_part_of_the_hash():
    assert Vocab(VOCAB.tokens, {"mask": 1, "pad": 0}, (3,)).hash == VOCAB.hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("A", "B", "A"),), "'A' twice"),
        ((("A",), {"padding": 0}), "unknown role 'padding'"),
        ((("A",), {"pad": 1}), "pad has id 1"),
        ((tuple(map(str, range(MAX_SIZE + 1))),), "16 bits"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        Vocab(*arguments)


def test_a_missing_role_says_which_there_are():
    with pytest.raises(ValueError, match="needs a cls token, but the vocabulary has pad, mask"):
        VOCAB.special("cls")
