from pathlib import Path

import pytest
import torch
import transformers
from omegaconf import OmegaConf

from scfm.config import build
from scfm.model.backbone import Backbone, count_parameters
from scfm.vocab import Vocab

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
CAUSAL = [pytest.param(False, id="bert"), pytest.param(True, id="gpt2")]


def vocab_of(size):
    return Vocab(tuple(f"g{i}" for i in range(size)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})


@pytest.mark.parametrize(
    ("name", "size", "causal", "expected"),
    [
        ("iseeek", 20_706, False, 37_330_722),
        ("geneformer_v1_10m", 25_426, False, 10_288_722),
        ("geneformer_v2_104m", 20_275, False, 104_386_867),
        ("geneformer_v2_316m", 20_275, False, 316_354_867),
        ("tgpt", 21_150, True, 123_478_016),
    ],
)
def test_published_sizes(name, size, causal, expected):
    node = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert count_parameters(lambda: build(node, vocab_of(size), causal=causal)) == expected


@pytest.mark.parametrize("causal", CAUSAL)
def test_tiny_is_tiny(causal):
    node = OmegaConf.load(CONFIGS / "tiny.yaml")
    assert 1e6 < count_parameters(lambda: build(node, vocab_of(5000), causal=causal)) < 2.5e6


@pytest.mark.parametrize("causal", CAUSAL)
def test_the_model_is_transformers_own(causal, small, pack, tmp_path):
    """Exported by save_pretrained, loaded by transformers alone: same keys, same scores."""
    backbone, batch = small(causal), pack([9])
    backbone.model.save_pretrained(tmp_path)
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    plain = auto.from_pretrained(tmp_path)
    assert {f"model.{key}" for key in plain.state_dict()} == set(backbone.state_dict())
    torch.testing.assert_close(backbone.logits(backbone(batch)), plain(batch.ids[None]).logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", CAUSAL)
def test_hidden_layers_are_transformers_own(causal, small, pack):
    backbone, batch = small(causal).eval(), pack([9])
    mine = [backbone.hidden(batch, layer) for layer in range(3)]
    backbone.model.set_attn_implementation("eager")
    its = backbone.model(batch.ids[None], output_hidden_states=True).hidden_states
    for layer in range(3):
        torch.testing.assert_close(mine[layer], its[layer][0], atol=1e-5, rtol=1e-5)
    backbone.model.set_attn_implementation("scfm_packed")
    for layer in range(-3, 0):
        torch.testing.assert_close(backbone.hidden(batch, layer), mine[layer])
    torch.testing.assert_close(backbone(batch), mine[-1])
    with pytest.raises(ValueError, match="layer 3 of a model with 2 layers"):
        backbone.hidden(batch, 3)


@pytest.mark.parametrize("causal", CAUSAL)
def test_attributes(causal, small):
    backbone = small(causal, embedding_layer=-2)
    assert (backbone.width, backbone.n_layers, backbone.n_positions, backbone.causal) == (32, 2, 64, causal)
    assert len(backbone.layers) == 2
    assert backbone.training
    assert all(module.training for module in backbone.modules())
    assert backbone.config.vocab_size == 60
    assert backbone.work(0.15).vocab == 60
    assert backbone.work(0.15).transform is not causal


@pytest.mark.parametrize("causal", CAUSAL)
def test_compiled_layers_keep_names_and_results(causal, small, pack):
    backbone, batch = small(causal), pack([9, 4, 4])
    names, before, inner = list(backbone.state_dict()), backbone(batch), backbone.hidden(batch, 1)
    backbone.compile_layers(backend="aot_eager")
    torch.testing.assert_close(backbone(batch), before)
    torch.testing.assert_close(backbone.hidden(batch, 1), inner)
    other = pack([3, 11, 5, 2])
    assert torch.isfinite(backbone(other)).all()
    assert list(backbone.state_dict()) == names


@pytest.mark.parametrize("causal", CAUSAL)
def test_checkpointing_changes_no_gradient(causal, small, pack):
    batch, found = pack([9, 4]), []
    for checkpointing in (False, True):
        backbone = small(causal, checkpointing=checkpointing)
        backbone(batch).square().sum().backward()
        found.append([p.grad for p in backbone.model.base_model.parameters() if p.grad is not None])
    torch.testing.assert_close(found[0], found[1])


def test_options_reach_the_configuration(small):
    backbone = small(False, options={"layer_norm_eps": 1e-5, "initializer_range": 0.01})
    assert backbone.config.layer_norm_eps == 1e-5
    assert backbone.config.initializer_range == 0.01


def test_attention_dropout_only_in_training(small, pack):
    backbone, batch = small(False, attention_dropout=0.5), pack([9, 4])
    assert not torch.equal(backbone(batch), backbone(batch))
    backbone.eval()
    torch.testing.assert_close(backbone(batch), small(False).eval()(batch))


@pytest.mark.parametrize(
    ("causal", "options", "message"),
    [
        (True, {"architecture": "bert"}, "needs a causal backbone.*BertForMaskedLM"),
        (False, {"architecture": "gpt2"}, "needs a bidirectional backbone.*GPT2LMHeadModel"),
        (False, {"architecture": "BertForMaskdLM"}, "expected auto, bert, gpt2, or a transformers class"),
        (False, {"architecture": "BrtForMaskedLM"}, "did you mean BertForMaskedLM"),
        (False, {"options": {"layer_norm_epsilon": 1e-5}}, "did you mean layer_norm_eps"),
        (False, {"width": 33}, "width=33 must be a multiple of heads=2"),
        (False, {"max_length": 65}, "max_length=65 must lie between 1 and positions=64"),
        (False, {"embedding_layer": 3}, "embedding_layer=3 of a model with 2 layers"),
        (False, {"embedding_pool": "max"}, "embedding_pool='max'"),
    ],
)
def test_refusals(causal, options, message, small):
    with pytest.raises(ValueError, match=message):
        small(causal, **options)


def test_cls_pool_needs_a_cls_token():
    with pytest.raises(ValueError, match="needs a cls token"):
        Backbone(Vocab(("p", "m", "a"), {"pad": 0, "mask": 1}), False, layers=1, width=8, heads=1, embedding_pool="cls")


def test_unknown_prediction_head(small):
    backbone = small(False, architecture="RobertaForMaskedLM")
    with pytest.raises(ValueError, match="RobertaForMaskedLM has a prediction head of an unknown kind"):
        backbone.logits(torch.zeros(1, 32))


@pytest.mark.parametrize("options", [{"positions": 8}, {"max_length": 8}])
def test_a_cell_too_long(options, small, pack):
    backbone = small(True, **options)
    assert backbone(pack([8, 3])).shape == (11, 32)
    with pytest.raises(ValueError, match="a cell has 9 tokens, but GPT2LMHeadModel reads at most 8"):
        backbone(pack([9]))
