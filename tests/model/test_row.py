import pytest
import torch


@pytest.mark.parametrize("causal", [False, True])
def test_nothing_changes_for_the_real_cells(causal, small, pack):
    batch = pack([5, 9, 2])
    found = []
    for row in (None, 16, 200):
        backbone = small(causal, row=row)
        hidden = backbone(batch)
        assert backbone.hidden(batch, 1).shape == hidden.shape
        hidden.square().sum().backward()
        found.append((hidden.detach(), [p.grad for p in backbone.model.base_model.parameters() if p.grad is not None]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-5)


def test_a_batch_too_large(small, pack):
    with pytest.raises(ValueError, match=r"a batch has 16 tokens, but model.row=15"):
        small(False, row=15)(pack([5, 9, 2]))
