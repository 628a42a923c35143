import inspect
import logging
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from scfm.model import attention
from scfm.model.attention import attention_path, packed_attention

CAUSAL = [pytest.param(False, id="bert"), pytest.param(True, id="gpt2")]
LENGTHS = [7, 12, 12, 12, 1, 30, 2, 2]


def cell_by_cell(backbone, batch):
    """The oracle: transformers' eager attention, one cell at a time, no packing at all."""
    backbone.model.set_attn_implementation("eager")
    cells = batch.ids.split(batch.lengths.tolist())
    out = torch.cat([backbone.model.base_model(cell[None], use_cache=False).last_hidden_state[0] for cell in cells])
    backbone.model.set_attn_implementation(attention.NAME)
    return out


def gradients(backbone, hidden):
    backbone.zero_grad()
    weight = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
    (hidden * weight).sum().backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("causal", CAUSAL)
def test_packed_equals_cell_by_cell(causal, small, pack):
    backbone, batch = small(causal), pack(LENGTHS)
    packed, alone = backbone(batch), cell_by_cell(backbone, batch)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    ours, its = gradients(backbone, packed), gradients(backbone, alone)
    assert ours.keys() == its.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], its[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("causal", CAUSAL)
def test_padded_transformers_gives_the_same(causal, small, pack):
    """The published way: rows padded to the longest, under an attention mask."""
    backbone, batch = small(causal), pack([7, 12, 3])
    cells = batch.ids.split(batch.lengths.tolist())
    ids = torch.nn.utils.rnn.pad_sequence(cells, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(cell) for cell in cells], batch_first=True)
    packed = backbone(batch)
    backbone.model.set_attn_implementation("sdpa")
    padded = backbone.model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    torch.testing.assert_close(packed, padded[mask.bool()], atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), causal=st.booleans(), seed=st.integers(0, 99))
def test_any_lengths(lengths, causal, seed):
    """The function alone, against softmax written out under a block-diagonal mask."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    q, k, v = torch.randn(3, 1, 2, total, 8, generator=generator)
    cell = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = cell[:, None] == cell[None]
    if causal:
        allowed &= torch.ones(total, total).tril().bool()
    scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(~allowed, -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2)
    boundaries = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    module = SimpleNamespace(is_causal=causal)
    got, weights = packed_attention(module, q, k, v, None, boundaries=boundaries, longest=max(lengths), scaling=0.3)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert weights is None


@pytest.mark.parametrize("causal", CAUSAL)
def test_cells_do_not_see_each_other(causal, small, pack):
    backbone, batch = small(causal), pack([5, 8, 5])
    before = backbone(batch)
    batch.ids[5:13] = 9
    after = backbone(batch)
    torch.testing.assert_close(after[:5], before[:5])
    torch.testing.assert_close(after[13:], before[13:])
    assert (after[5:13] - before[5:13]).abs().max() > 1e-3


@pytest.mark.parametrize("causal", CAUSAL)
def test_order_of_the_cells_does_not_matter(causal, small, pack):
    backbone, batch = small(causal), pack([5, 8])
    turned = pack([8, 5])
    turned.ids[:] = torch.cat([batch.ids[5:], batch.ids[:5]])
    one, other = backbone(batch), backbone(turned)
    torch.testing.assert_close(one, torch.cat([other[8:], other[:8]]), atol=1e-6, rtol=0)


def test_causal_sees_no_future(small, pack):
    backbone, batch = small(True), pack([10])
    before = backbone(batch)
    for position in (1, 5, 9):
        changed = pack([10])
        changed.ids[position] = (batch.ids[position] + 1 - 4) % 56 + 4
        after = backbone(changed)
        torch.testing.assert_close(after[:position], before[:position], atol=1e-6, rtol=0)
        assert (after[position:] - before[position:]).abs().amax(1).min() > 1e-5


def test_bidirectional_sees_everything(small, pack):
    backbone, batch = small(False), pack([10])
    before = backbone(batch)
    batch.ids[9] = (batch.ids[9] + 1 - 4) % 56 + 4
    assert (backbone(batch) - before).abs().amax(1).min() > 1e-6


def test_fewer_keys_than_queries(small, pack):
    """Grouped-query attention (Llama), against its own eager attention."""
    backbone = small(True, architecture="LlamaForCausalLM", options={"num_key_value_heads": 1})
    batch = pack([7, 5])
    torch.testing.assert_close(backbone(batch), cell_by_cell(backbone, batch), atol=1e-5, rtol=0)


# --- the CUDA path, by a reference of the kernel's contract ---------------------------------------------------------


def reference(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """``varlen_attn`` of torch 2.12 and later, written out."""
    assert query.dim() == 3
    assert cu_seq_q.dtype == torch.int32
    assert int(cu_seq_q.diff().max()) <= max_q
    assert max_q == max_k
    assert window_size in ((-1, -1), (-1, 0))
    cells = []
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=window_size == (-1, 0), scale=scale)
        cells.append(out.transpose(0, 1))
    return torch.cat(cells)


def older_reference(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    """``varlen_attn`` with neither scale nor window."""
    window = (-1, 0) if is_causal else (-1, -1)
    return reference(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window)


def use_kernel(kernel, monkeypatch):
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "VARLEN_ARGUMENTS", attention._arguments(kernel))
    monkeypatch.setattr(attention, "attention_path", lambda *_: ("varlen", ""))


@pytest.mark.parametrize("kernel", [reference, older_reference])
@pytest.mark.parametrize("causal", CAUSAL)
def test_varlen_path_is_the_same_mathematics(causal, kernel, small, pack, monkeypatch):
    backbone, batch = small(causal), pack(LENGTHS)
    expected = backbone(batch)
    its = gradients(backbone, expected)
    use_kernel(kernel, monkeypatch)
    got = backbone(batch)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    for name, gradient in gradients(backbone, got).items():
        torch.testing.assert_close(gradient, its[name], atol=1e-5, rtol=1e-5, msg=name)


def test_varlen_scales_where_the_kernel_cannot(monkeypatch):
    q, k, v = torch.randn(3, 1, 2, 6, 8)
    bounds = torch.tensor([0, 4, 6], dtype=torch.int32)
    use_kernel(older_reference, monkeypatch)
    got = attention._whole_row(q, k, v, bounds, 4, True, 0.7)
    expected = attention._cell_by_cell(q, k, v, bounds, True, 0.7, 0.0)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_the_real_kernel_takes_our_arguments():
    kernel = attention.varlen_attn
    if kernel is None:
        pytest.skip("this torch has no varlen_attn")
    known = inspect.signature(kernel).parameters
    assert list(known)[:7] == list(inspect.signature(reference).parameters)[:7]
    assert "window_size" in known or "is_causal" in known


def test_path_on_cpu_says_why(caplog):
    attention_path.cache_clear()
    with caplog.at_level(logging.DEBUG, "scfm"):
        for _ in range(3):
            name, reason = attention_path(torch.device("cpu"), torch.float32, 64)
    assert name == "sdpa"
    assert "needs a CUDA device and this is cpu" in reason
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG, "a CPU leaves no choice, so that the screen is spared"


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "kernel", "reason"),
    [
        (torch.bfloat16, 64, (9, 0), reference, None),
        (torch.float16, 128, (8, 0), reference, None),
        (torch.float32, 64, (9, 0), reference, "float16 or bfloat16 and this is float32"),
        (torch.bfloat16, 36, (9, 0), reference, "multiple of 8 up to 256 and this is 36"),
        (torch.bfloat16, 512, (9, 0), reference, "multiple of 8 up to 256 and this is 512"),
        (torch.float16, 64, (7, 0), reference, "compute capability 8.0 (A100) or newer and this GPU has 7.0"),
        (torch.float16, 64, (9, 0), None, "no torch.nn.attention.varlen"),
    ],
)
def test_path_on_cuda(dtype, head_dim, capability, kernel, reason, monkeypatch):
    attention_path.cache_clear()
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    name, said = attention_path(torch.device("cuda", 0), dtype, head_dim)
    attention_path.cache_clear()
    assert name == ("varlen" if reason is None else "sdpa")
    assert (reason or "attention dropout is 0") in said


def test_refusals():
    q = torch.randn(1, 2, 6, 8)
    bounds = torch.tensor([0, 6], dtype=torch.int32)
    module = SimpleNamespace(is_causal=False)
    with pytest.raises(ValueError, match="needs the keywords boundaries"):
        packed_attention(module, q, q, q, None)
    two = q.expand(2, -1, -1, -1)
    with pytest.raises(ValueError, match="one packed row"):
        packed_attention(module, two, two, two, None, boundaries=bounds, longest=6)
    with pytest.raises(ValueError, match="without a mask"):
        packed_attention(module, q, q, q, torch.zeros(1, 1, 6, 6), boundaries=bounds, longest=6)
    with pytest.raises(ValueError, match="sliding window"):
        packed_attention(module, q, q, q, None, boundaries=bounds, longest=6, sliding_window=4)


def traceable(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """The same contract, in operations that torch.compile can follow: one dense mask."""
    place = torch.arange(query.shape[0])
    cell = torch.searchsorted(cu_seq_q, place, right=True)
    allowed = cell[:, None] == cell[None]
    if window_size == (-1, 0):
        allowed = allowed & (place[:, None] >= place[None])
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)[0].transpose(0, 1)


@pytest.mark.parametrize("causal", CAUSAL)
def test_varlen_path_compiles_to_one_graph(causal, small, pack, monkeypatch):
    """No break inside a layer, and one graph for every shape and layer: what keeps a GPU from waiting for Python."""
    use_kernel(traceable, monkeypatch)
    torch._dynamo.reset()
    backbone = small(causal, layers=3)
    batches = [pack(lengths) for lengths in ([7, 12, 3], [9, 9], [5, 4, 3, 2], [20, 2], [11, 13, 1])]
    expected = [backbone(batch) for batch in batches]
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    backbone.compile_layers(backend=backend, fullgraph=True)
    for batch, its in zip(batches, expected, strict=True):
        torch.testing.assert_close(backbone(batch), its)
    torch._dynamo.reset()
    assert len(graphs) <= 2
