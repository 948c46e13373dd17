"""What is kept between the requests of a run's page: nothing is read, or made, that was before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from dalang.api.ui import run_progress
from dalang.api.ui.run_drawing import LiveDrawing
from dalang.api.ui.run_progress import Answers, Standings
from dalang.api.ui.run_scenes import MAX_WIDTH, Scene, coded, live_picture
from dalang.sketch import sketch
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
    total_nodes: int = 0

    @property
    def node_status_counts(self) -> dict[str, int]:
        """How many have which status."""
        return Counter(self.statuses.values())

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

    async def by_status(self, conn: Any, tenant: str, run: UUID, but: str = "") -> dict[str, list[str]]:
        """Stand for ``ids_by_status``."""
        self.read.append(f"all but {but}")
        found: dict[str, list[str]] = {}
        for node, status in self.statuses.items():
            if status != but:
                found.setdefault(status, []).append(node)
        return found


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A run with two nodes, of which one has begun."""
    run = Stored()
    monkeypatch.setattr(run_progress, "node_progress", run.progress)
    monkeypatch.setattr(run_progress, "nodes_since", run.since)
    monkeypatch.setattr(run_progress, "ids_by_status", run.by_status)
    run.happens(None)
    run.happens("a")
    return run


def scene(*ids: str) -> Scene:
    """Return the scene of a plan of nodes without edges."""
    plan = sketch({"nodes": [{"nodeId": one, "type": "noop"} for one in ids]})
    return Scene.of(plan, LiveDrawing(live_picture(plan)))


async def told(kept: Standings, stored: Any, of: Scene) -> str:
    """Return how all nodes stand."""
    return (await kept.get(None, stored, of)).statuses("PENDING").decode()  # type: ignore[arg-type]


TWO = scene("a", "b")


async def test_only_what_is_new_is_read(stored: Any) -> None:
    """A page that asks every second does not read all nodes each time."""
    kept = Standings()
    assert await told(kept, stored, TWO) == coded(["RUNNING", "PENDING"])
    await told(kept, stored, TWO)
    assert stored.read == [None]
    stored.happens(None)
    stored.happens("b")
    stored.happens("b", "SUCCESS")
    stored.happens("gone")
    assert await told(kept, stored, TWO) == coded(["RUNNING", "SUCCESS"])
    assert stored.read == [None, {"b", "gone"}]


async def test_after_a_reset_everything_is_read_anew(stored: Any) -> None:
    """What happened in the epoch before counts no longer."""
    kept = Standings()
    await told(kept, stored, TWO)
    stored.head_epoch, stored.statuses = 1, {"b": "RUNNING"}
    assert await told(kept, stored, TWO) == coded(["PENDING", "RUNNING"])


async def test_too_much_news_is_read_as_everything(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was closed for an hour does not read the hour."""
    monkeypatch.setattr(run_progress, "MOST_NEW", 3)
    kept = Standings()
    await told(kept, stored, TWO)
    for _ in range(3):
        stored.happens("b")
    assert await told(kept, stored, TWO) == coded(["RUNNING", "RUNNING"])
    assert stored.read == [None, None]


async def test_of_a_wide_run_only_what_is_unusual_is_read(stored: Any) -> None:
    """Where all went well nothing is read, and where most did, the others; a node without a row is as it was."""
    ids = [f"n{at}" for at in range(MAX_WIDTH + 1)]
    wide, stored.total_nodes, stored.statuses = scene(*ids), len(ids), {"n1": "SUCCESS"}
    assert await told(Standings(), stored, wide) == coded(["PENDING", "SUCCESS", *["PENDING"] * (len(ids) - 2)])
    stored.statuses = dict.fromkeys(ids, "SUCCESS")
    assert await told(Standings(), stored, wide) == coded(["SUCCESS"] * len(ids))
    stored.statuses["n2"] = "FAILED"
    assert await told(Standings(), stored, wide) == coded([stored.statuses[one] for one in ids])
    assert stored.read == ["all but ", "all but SUCCESS"]


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
