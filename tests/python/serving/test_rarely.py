"""Due at first, then not before its time, for each key on its own."""

import pytest
from inflight.serving import rarely
from inflight.serving.rarely import Rarely


def test_due_by_time_and_key() -> None:
    times = iter([0.0, 0.05, 0.09, 0.1, 0.11, 0.19, 0.2])
    poll = Rarely(0.1, lambda: next(times))
    asked = [poll.due(key) for key in (1, 1, 2, 1, 2, 2, 1)]
    assert asked == [True, False, True, True, False, True, True]


def test_forgotten_keys_are_due_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rarely, "_MAX_REMEMBERED", 2)
    poll = Rarely(100)
    assert poll.due(1)
    poll.forget(1)
    assert [poll.due(1), poll.due(2), poll.due(2), poll.due(3)] == [True, True, False, True]
    assert poll.due(1)  # the oldest of three
