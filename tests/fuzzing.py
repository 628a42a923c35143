"""How long the fuzzers look: a few seconds each, or as many examples as ``SCFM_FUZZ`` says (``make fuzz``)."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("SCFM_FUZZ", "0"))


def bounded(quick: int) -> settings:
    """Settings of one fuzzer.

    Args:
        quick: examples of a usual run, which takes about three seconds.
    """
    return settings(
        max_examples=EXAMPLES or quick,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


#: Plain values of every kind, hostile ones among them.
_texts = st.sampled_from(["", "x", "../x", "/etc/passwd", "${oc.env:HOME}", "???", "os.system", "scfm.checkpoint.read"])
_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1 << 31, 1 << 62, 10**30])
    | st.floats()
    | st.text(max_size=8)
    | _texts
)
values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["_target_", "x", "name"]), inner),
    max_leaves=6,
)
