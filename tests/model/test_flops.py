import pytest

from scfm.model.flops import Work, mean_length, peak_of

SIZES = {"10M": (6, 256, 512, 25_426), "104M": (12, 768, 3072, 20_275), "316M": (18, 1152, 4608, 20_275)}


@pytest.mark.parametrize(
    ("model", "length", "predicted", "mflop", "attention", "head", "ideal", "roof"),
    [
        ("10M", 128, 0.15, 27, 0.09, 0.22, 29.1, 15.1),
        ("10M", 128, 1.0, 61, 0.04, 0.65, 13.0, 9.2),
        ("10M", 2048, 0.15, 62, 0.60, 0.09, 12.6, 7.4),
        ("10M", 2048, 1.0, 96, 0.39, 0.41, 8.2, 5.6),
        ("10M", 4096, 0.15, 100, 0.75, 0.06, 7.9, 4.6),
        ("104M", 128, 0.15, 538, 0.03, 0.03, 1.47, 1.30),
        ("104M", 128, 1.0, 621, 0.02, 0.15, 1.27, 1.14),
        ("104M", 2048, 0.15, 751, 0.30, 0.02, 1.05, 0.86),
        ("104M", 4096, 0.15, 977, 0.46, 0.01, 0.81, 0.60),
        ("316M", 128, 0.15, 1774, 0.02, 0.01, 0.445, 0.409),
        ("316M", 2048, 1.0, 2378, 0.22, 0.06, 0.332, 0.286),
        ("316M", 4096, 0.15, 2761, 0.37, 0.01, 0.286, 0.224),
    ],
)
def test_published_table(model, length, predicted, mflop, attention, head, ideal, roof):
    """An H200's roofline, worked out by hand; its next-gene rows count the masked head's transform too."""
    work = Work(*SIZES[model], True, predicted)
    total = work.per_token(length)
    assert total / 1e6 == pytest.approx(mflop, rel=0.02)
    assert work.attention(length) / total == pytest.approx(attention, abs=0.01)
    assert work.head / total == pytest.approx(head, abs=0.01)
    assert 790e12 / total / 1e6 == pytest.approx(ideal, rel=0.02)
    assert work.roof(length) / 1e6 == pytest.approx(roof, rel=0.02)


def test_utilization_and_lengths():
    work = Work(*SIZES["104M"], True, 0.15)
    assert work.utilization(989e12 / work.per_token(128), 128, 989e12) == pytest.approx(1)
    assert mean_length([128, 128]) == 128
    assert mean_length([1, 3]) == 2.5
    assert mean_length([]) == 0
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of("cpu") is None
