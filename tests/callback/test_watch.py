"""The watchdog ends a run that stands still, and not one that was put to sleep."""

from types import SimpleNamespace

import pytest

from scfm.callback.watch import STALLED, Watch


class StoppedError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def watch(monkeypatch):
    """``watch(jumps)``: the thread's loop with a clock that jumps so many seconds at each of its turns."""

    def run(jumps):
        now, left = [0.0], list(jumps)

        def wait(seconds):
            if not left:
                return True
            now[0] += left.pop(0)
            return False

        def end(code):
            raise StoppedError(code)

        monkeypatch.setattr("scfm.callback.watch.time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr("scfm.callback.watch.os", SimpleNamespace(_exit=end))
        monkeypatch.setattr("scfm.callback.watch.faulthandler", SimpleNamespace(dump_traceback=lambda file: None))
        found = Watch(minutes=1.0)
        found.rank, found.world = 0, 1
        monkeypatch.setattr(found._stop, "wait", wait)
        found._watch()

    return run


def test_no_progress_for_a_minute_ends_the_run(watch):
    with pytest.raises(StoppedError) as ended:
        watch([5.0] * 14)
    assert ended.value.args == (STALLED,)


@pytest.mark.parametrize("asleep", [20.0, 3600.0])
def test_a_process_that_was_stopped_or_a_machine_that_slept_is_no_stall(watch, asleep):
    watch([5.0] * 5 + [asleep] + [5.0] * 6)
    with pytest.raises(StoppedError):
        watch([5.0] * 5 + [asleep] + [5.0] * 14)
