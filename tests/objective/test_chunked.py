import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from scfm.objective.chunked import chunked_loss
from scfm.objective.score import IGNORE


def make(n, width, size, bias, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    decoder = nn.Linear(width, size, bias=bias, dtype=dtype)
    hidden = torch.randn(n, width, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, size, (n,), generator=generator)
    return SimpleNamespace(decoder=decoder, transform=nn.Identity(), logits=decoder), hidden, targets


def gradients(loss, backbone, hidden):
    parameters = list(backbone.decoder.parameters())
    return torch.autograd.grad(loss * 0.5, [hidden, *parameters], allow_unused=True)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    chunk=st.integers(1, 50),
    bias=st.booleans(),
    plain=st.booleans(),
    ignored=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_equals_cross_entropy(n, chunk, bias, plain, ignored, seed):
    """Loss and gradients, by both ways: a plain decoder, and any other module."""
    backbone, hidden, targets = make(n, 8, 30, bias, seed)
    targets = targets.masked_fill(torch.rand(n, generator=torch.Generator().manual_seed(seed)) < ignored, IGNORE)
    logits = backbone.decoder(hidden)
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    its = gradients(expected, backbone, hidden)
    used = backbone if plain else SimpleNamespace(logits=backbone.decoder)
    loss = chunked_loss(used, hidden, targets, chunk)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    for ours, other in zip(gradients(loss, backbone, hidden), its, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)


def test_gradient_by_finite_differences():
    backbone, hidden, targets = make(5, 3, 7, True, dtype=torch.float64)
    weight = backbone.decoder.weight.detach().clone().requires_grad_()

    def loss(hidden, weight):
        return F.cross_entropy(F.linear(hidden, weight, backbone.decoder.bias), targets, reduction="sum")

    backbone.decoder.weight = nn.Parameter(weight.detach().clone())
    ours = chunked_loss(backbone, hidden, targets, 2)
    its = torch.autograd.grad(loss(hidden, weight), [hidden, weight])
    mine = torch.autograd.grad(ours, [hidden, backbone.decoder.weight])
    for a, b in zip(mine, its, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_frozen_decoder_and_no_gradient_at_all():
    backbone, hidden, targets = make(10, 8, 30, True)
    backbone.decoder.requires_grad_(False)
    chunked_loss(backbone, hidden, targets, 4).backward()
    assert hidden.grad is not None
    assert backbone.decoder.weight.grad is None
    with torch.no_grad():
        assert not chunked_loss(backbone, hidden, targets, 4).requires_grad


def test_under_autocast_the_loss_keeps_its_digits():
    backbone, hidden, targets = make(400, 32, 500, False)
    exact = chunked_loss(backbone, hidden, targets, 64)
    its = gradients(exact, backbone, hidden)
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_loss(backbone, hidden, targets, 64)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=1e-3)
    for ours, other in zip(gradients(loss, backbone, hidden), its, strict=True):
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(ours.flatten(), other.flatten(), dim=0) > 0.999


MEMORY = """
import sys, torch
from types import SimpleNamespace
from torch import nn
from torch.nn import functional as F
from scfm.objective.chunked import chunked_loss
decoder = nn.Linear(64, 20_000, bias=False)
hidden, targets = torch.randn(4096, 64, requires_grad=True), torch.randint(0, 20_000, (4096,))
def peak():  # not ru_maxrss, which a child inherits from its parent
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
if sys.argv[1] == "chunked":
    loss = chunked_loss(SimpleNamespace(decoder=decoder, transform=nn.Identity()), hidden, targets, 512)
else:
    loss = F.cross_entropy(decoder(hidden), targets, reduction="sum")
loss.backward()
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_a_quarter_at_most():
    def peak(how):
        return int(
            subprocess.run([sys.executable, "-c", MEMORY, how], capture_output=True, text=True, check=True).stdout
        )

    assert peak("chunked") <= 0.25 * peak("full")


def test_a_second_backward_pass_is_refused():
    backbone, hidden, targets = make(10, 8, 30, True)
    loss = chunked_loss(backbone, hidden, targets, 4)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
