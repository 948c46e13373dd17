"""The moment that a workflow task of a wide run waits for more ends."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from dalang.workflows import gathering


@pytest.mark.parametrize(
    ("came", "in_flight", "replaying", "waits"),
    [
        (2, 50, False, True),
        (2, 50, True, False),
        (40, 50, False, False),
        (0, 50, False, False),
        (1, gathering.WIDE - 1, False, False),
    ],
)
def test_only_few_ends_of_many_are_worth_a_wait(
    monkeypatch: pytest.MonkeyPatch, came: int, in_flight: int, replaying: bool, waits: bool
) -> None:
    """A task waits when few of many nodes have ended; not in a replay, not when most have, and not in a narrow run."""
    sleep = Mock()
    monkeypatch.setattr(gathering.time, "sleep", sleep)
    monkeypatch.setattr(gathering.workflow.unsafe, "is_replaying", lambda: replaying)
    gathering.wait_for_more(came, in_flight)
    assert sleep.called is waits
