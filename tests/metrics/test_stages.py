import numpy as np
import pytest

from scfm.metrics.stages import order_stages, stage_ranks


def test_numbers_have_their_own_order():
    assert order_stages(["10", "9.5", "-1"]) == ("-1", "9.5", "10")
    assert order_stages([]) == ()


@pytest.mark.parametrize("names", [["1", "late"], ["1", "nan"], ["inf", "2"]])
def test_what_is_no_number_has_none(names):
    with pytest.raises(ValueError):
        order_stages(names)


def test_ranks_follow_the_stages_and_are_missing_elsewhere():
    values = np.array(["late", "early", "", "other"], dtype=object)
    np.testing.assert_array_equal(stage_ranks(values, ["early", "middle", "late"]), [2, 0, np.nan, np.nan])
