"""Watching a run that is too large to be told event by event: what is asked for, and what is shown."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from dalang.commands import watching, watching_large
from dalang.commands.client import ApiClient
from dalang.commands.failures import Unreachable
from dalang.commands.runs import watch_to_end
from dalang.commands.session import Session

RUN = "7ccf11d2-c62b-4acf-be47-3f7598cee581"


class Answers:
    """An API that knows one run, whose counts are others each time; once it is away."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.looks: list[Any] = [
            *[{"RUNNING": 2, "SUCCESS": 60_000, "FAILED": 1, "PENDING": 39_997}] * 2,
            Unreachable("away"),
            {"SUCCESS": 99_998, "FAILED": 1, "SKIPPED": 1},
        ]

    def get(self, path: str, **query: Any) -> Any:
        self.asked.append(path)
        if path.endswith("/nodes"):
            if self.asked.count(path) == 3:
                raise Unreachable("away since it told of the run")
            wanted = [query["status"]] if isinstance(query["status"], str) else query["status"]
            return {"items": [{"nodeId": f"n-{one}", "type": "noop", "status": one} for one in wanted]}
        counts = self.looks[0] if len(self.looks) == 1 else self.looks.pop(0)
        if isinstance(counts, Unreachable):
            raise counts
        ends = len(self.looks) == 1
        return {
            "runId": RUN,
            "planName": "large",
            "status": "FAILED" if ends else "RUNNING",
            "startedAt": "2026-01-01T00:00:00Z",
            "completedAt": "2026-01-01T00:01:00Z" if ends else None,
            "totalNodes": 100_000,
            "nodeStatusCounts": counts,
        }


def watched(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> tuple[str, Answers]:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(watching_large, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: None)
    out = io.StringIO()
    session, answers = Session(), Answers()
    session.out = Console(file=out, width=100, height=20, force_terminal=terminal, color_system=None)
    session._client = cast(ApiClient, answers)
    document = {"nodes": [{}] * 100_000}
    assert watch_to_end(session, RUN, document) == 1
    return out.getvalue(), answers


def test_it_is_told_by_counts_and_not_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal it writes lines; neither events nor the plan are read, and an API that is away is borne."""
    text, answers = watched(monkeypatch, terminal=False)
    lines = [line[14:] for line in text.splitlines()]
    assert lines[0] == "RUNNING    60,001/100,000 nodes  2 running  1 failed"
    assert lines[1] == "FAILED     100,000/100,000 nodes  1 failed"
    assert set(answers.asked) == {f"/runs/{RUN}", f"/runs/{RUN}/nodes", f"/runs/{RUN}/nodes/n-FAILED"}


def test_a_terminal_shows_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of all, and below them what failed and what is under way."""
    text, answers = watched(monkeypatch, terminal=True)
    assert "100,000/100,000" in text
    assert text.index("n-FAILED") < text.index("n-RUNNING")
    assert not [path for path in answers.asked if "events" in path or "plan" in path]
