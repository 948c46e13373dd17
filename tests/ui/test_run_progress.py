"""What is kept between the requests of a run's page: nothing is read, or made, that was before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from dalang.api.ui import run_progress
from dalang.api.ui.run_progress import Answers, Progresses
from dalang.statuses import RunStatus
from dalang.store.run_history import Progress


@dataclass
class Stored:
    """A run as the database has it; ``read`` are the nodes that each question was about."""

    run_id: UUID = field(default_factory=uuid4)
    tenant_id: str = "t"
    status: str = RunStatus.RUNNING
    head_epoch: int = 0
    head_seq: int = 0
    statuses: dict[str, str] = field(default_factory=dict)
    events: list[str | None] = field(default_factory=list)
    read: list[Any] = field(default_factory=list)

    def happens(self, node: str | None, status: str = "RUNNING") -> None:
        """Store an event."""
        self.events.append(node)
        self.head_seq += 1
        if node is not None:
            self.statuses[node] = status

    async def progress(self, conn: Any, tenant: str, run: UUID, among: Any = None) -> dict[str, Progress]:
        """Stand for ``node_progress``."""
        self.read.append(among)
        names = self.statuses if among is None else among
        return {one: Progress(one, self.statuses[one], 1, 1, None, None) for one in names}

    async def since(self, conn: Any, tenant: str, run: UUID, epoch: int, seq: int, *, limit: int) -> Any:
        """Stand for ``nodes_since``."""
        return [(at + 1, node) for at, node in enumerate(self.events)][seq : seq + limit]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A run with two nodes, of which one has begun."""
    run = Stored()
    monkeypatch.setattr(run_progress, "node_progress", run.progress)
    monkeypatch.setattr(run_progress, "nodes_since", run.since)
    run.happens(None)
    run.happens("a")
    return run


async def test_only_nodes_that_something_happened_to_are_read_again(stored: Any) -> None:
    """A page that asks every second does not read 100,000 nodes each time."""
    kept = Progresses()
    assert set(await kept.get(None, stored)) == {"a"}  # type: ignore[arg-type]
    await kept.get(None, stored)  # type: ignore[arg-type]
    assert stored.read == [None]
    stored.happens(None)
    stored.happens("b")
    stored.happens("b", "SUCCESS")
    found = await kept.get(None, stored)  # type: ignore[arg-type]
    assert {name: one.status for name, one in found.items()} == {"a": "RUNNING", "b": "SUCCESS"}
    assert stored.read == [None, {"b"}]


async def test_after_a_reset_everything_is_read_anew(stored: Any) -> None:
    """What happened in the epoch before counts no longer."""
    kept = Progresses()
    await kept.get(None, stored)  # type: ignore[arg-type]
    stored.head_epoch, stored.statuses = 1, {"b": "RUNNING"}
    assert set(await kept.get(None, stored)) == {"b"}  # type: ignore[arg-type]


async def test_too_much_news_is_read_as_everything(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was closed for an hour does not read the hour."""
    monkeypatch.setattr(run_progress, "MOST_NEW", 3)
    kept = Progresses()
    await kept.get(None, stored)  # type: ignore[arg-type]
    for _ in range(3):
        stored.happens("b")
    assert set(await kept.get(None, stored)) == {"a", "b"}  # type: ignore[arg-type]
    assert stored.read == [None, None]


async def test_an_answer_is_made_again_when_something_happened(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes long is given for a while, but never after the run's end."""
    made: list[int] = []

    async def make() -> bytes:
        made.append(stored.head_seq)
        return str(stored.head_seq).encode()

    async def asked() -> bytes:
        return await answers.get(stored, "bars", make)

    answers = Answers()
    assert await asked() == await asked() == b"2"
    stored.happens("a")
    assert await asked() == b"3"  # it is made in no time
    monkeypatch.setattr(run_progress, "SLOW_SECONDS", 0)
    monkeypatch.setattr(run_progress, "PATIENCE", float("inf"))
    stored.happens("a")
    assert await asked() == b"3"
    stored.status = RunStatus.COMPLETED
    assert await asked() == b"4"
    assert made == [2, 3, 4]
