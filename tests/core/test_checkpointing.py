"""Checkpoints of one attempt, from the handler's call to heartbeats, the store and the next attempt; no servers."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from dalang.activities.checkpoints import INLINE_CHECKPOINT_BYTES
from dalang.activities.execution import Recorder, attempt
from dalang.nodes import InvalidInput, NetworkError, NodeContext
from dalang.wire import Checkpoint, NodeTask, is_checkpoint
from tests.harness import PATIENCE

BEGUN = datetime(2026, 11, 22, tzinfo=UTC)
RETRY = {"attempts": 3, "strategy": "FIXED", "delay": 1, "maxDelay": 1, "jitter": False, "retryOn": ["NETWORK_ERROR"]}
LARGE = "x" * (INLINE_CHECKPOINT_BYTES + 1)
Body = Callable[[NodeContext], Awaitable[Any]]


class Store(Recorder):
    """Keeps what the table would; without ``there`` it is a database that is away."""

    def __init__(self) -> None:
        super().__init__("w")
        self.there = asyncio.Event()
        self.there.set()
        self.saved: list[tuple[Checkpoint, bytes]] = []

    async def save_checkpoint(self, task: NodeTask, checkpoint: Checkpoint, encoded: bytes) -> None:
        await self.there.wait()
        self.saved.append((checkpoint, encoded))

    async def load_checkpoint(self, task: NodeTask) -> tuple[Checkpoint, bytes] | None:
        await self.there.wait()
        return self.saved[-1] if self.saved else None


def task(**more: Any) -> NodeTask:
    """The input of a node's activity."""
    given: Any = {
        "runId": "r",
        "tenantId": "t",
        "nodeId": "n",
        "type": "x",
        "inputs": {},
        "key": "r:n:0:0",
        "generation": 0,
        "startToCloseMs": 60_000,
        "retry": RETRY,
        "run": {},
    }
    return {**given, **more}


class World:
    """One activity environment: its heartbeats, and attempts that run in it."""

    def __init__(self, store: Store, number: int = 1, details: tuple[Any, ...] = ()) -> None:
        self.store = store
        self.env = ActivityEnvironment()
        self.beats: list[tuple[Any, ...]] = []
        self.beat = asyncio.Event()
        self.env.on_heartbeat = self._take
        self.env.info = dataclasses.replace(
            self.env.info,
            attempt=number,
            started_time=BEGUN + timedelta(seconds=number),
            heartbeat_details=details,
            heartbeat_timeout=timedelta(seconds=60),
        )

    def _take(self, *details: Any) -> None:
        self.beats.append(details)
        self.beat.set()

    async def run(self, body: Body, **more: Any) -> Any:
        """Run one attempt."""
        return await self.env.run(attempt, task(**more), body, self.store)

    def stop(self) -> None:
        """Cancel it, as the workflow does."""
        self.env.cancel(cancellation_details=ActivityCancellationDetails(cancel_requested=True))


async def _hang(ctx: NodeContext) -> None:
    await asyncio.sleep(3600)


async def test_a_heartbeat_follows_a_checkpoint_at_once() -> None:
    """Nobody waits for the next regular one, which may be long after the process was killed."""
    world = World(Store())

    async def body(ctx: NodeContext) -> None:
        ctx.progress("half")
        await ctx.checkpoint({"n": 1})
        await asyncio.wait_for(world.beat.wait(), PATIENCE)

    await world.run(body)
    progress, checkpoint = world.beats[0]
    assert progress == {"message": "half"}
    assert is_checkpoint(checkpoint)
    assert (checkpoint["state"], checkpoint["attempt"], checkpoint["number"]) == ({"n": 1}, 1, 1)


async def test_the_state_is_that_of_the_call() -> None:
    """What the handler does to the object afterwards does not change what it left."""
    world = World(Store())

    async def body(ctx: NodeContext) -> None:
        state = {"done": [1]}
        ctx.checkpoint(state)
        state["done"].append(2)
        raise NetworkError("away")

    with pytest.raises(ApplicationError) as failure:
        await world.run(body)
    assert failure.value.details[1]["state"] == {"done": [1]}
    assert world.beats[-1][1] == failure.value.details[1]


async def test_the_next_attempt_gets_it_and_hands_it_on() -> None:
    """``ctx.restored`` is what the heartbeat carried; the new attempt's own heartbeats carry it further."""
    left: Checkpoint = {"begun": 5, "attempt": 1, "number": 3, "at": 6, "size": 7, "state": {"n": 1}}
    world = World(Store(), 2, ({}, left))
    seen = []

    async def body(ctx: NodeContext) -> None:
        seen.append(ctx.restored)
        raise NetworkError("away")

    with pytest.raises(ApplicationError):
        await world.run(body)
    assert seen == [{"n": 1}]
    assert world.beats[-1][1] == left


@pytest.mark.parametrize("details", [(), ("text",), ({}, "text"), ({}, {"begun": "x"}), ({"message": "x"},)])
async def test_strange_heartbeats_restore_nothing(details: tuple[Any, ...]) -> None:
    """A worker in another language may have sent anything: the attempt starts from the beginning."""
    seen = []

    async def body(ctx: NodeContext) -> None:
        seen.append(ctx.restored)

    await World(Store(), 2, details).run(body)
    assert seen == [None]


async def test_a_cancelled_attempt_gives_its_checkpoint_back() -> None:
    """The workflow gets it as the result, since a cancelled activity's error has no details."""
    world = World(Store())

    async def body(ctx: NodeContext) -> None:
        ctx.checkpoint({"n": 2})
        await asyncio.sleep(3600)

    running = asyncio.create_task(world.run(body))
    await asyncio.wait_for(world.beat.wait(), PATIENCE)
    world.stop()
    result = await running
    assert result["stopped"] is True
    assert result["checkpoint"]["state"] == {"n": 2}


async def test_one_that_was_left_while_stopping_counts() -> None:
    """A handler may save its work when it is cancelled; that is the state that is given back."""
    world = World(Store())
    began = asyncio.Event()

    async def body(ctx: NodeContext) -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ctx.checkpoint({"saved": LARGE})

    running = asyncio.create_task(world.run(body))
    await asyncio.wait_for(began.wait(), PATIENCE)
    world.stop()
    result = await running
    assert "state" not in result["checkpoint"]
    assert result["checkpoint"]["number"] == world.store.saved[-1][0]["number"] == 1


async def test_without_a_checkpoint_a_cancel_is_a_cancel() -> None:
    """Temporal shows the activity as cancelled."""
    world = World(Store())
    running = asyncio.create_task(world.run(_hang))
    await asyncio.sleep(0)
    world.stop()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_worker_that_ends_does_not_stop_the_node() -> None:
    """Only the workflow's cancel is answered with a result: a shutdown leaves the attempt to be repeated."""
    world = World(Store())

    async def body(ctx: NodeContext) -> None:
        ctx.checkpoint(1)
        await asyncio.sleep(3600)

    running = asyncio.create_task(world.run(body))
    await asyncio.wait_for(world.beat.wait(), PATIENCE)
    world.env.cancel(cancellation_details=ActivityCancellationDetails(worker_shutdown=True))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.beats[-1][1]["state"] == 1


async def test_large_states_go_to_the_store_and_heartbeats_refer_to_them() -> None:
    """Awaiting the checkpoint waits until it is stored; the reference is in no heartbeat before that."""
    store = Store()
    store.there.clear()
    world = World(store)

    async def body(ctx: NodeContext) -> None:
        kept = asyncio.ensure_future(_awaited(ctx.checkpoint({"pad": LARGE})))
        await asyncio.sleep(0.05)
        assert not kept.done()
        assert not world.beats
        store.there.set()
        await asyncio.wait_for(kept, PATIENCE)
        await asyncio.wait_for(world.beat.wait(), PATIENCE)

    await world.run(body)
    assert "state" not in world.beats[-1][1]
    assert store.saved[0][1] == b'{"pad":"' + LARGE.encode() + b'"}'


async def _awaited(kept: Awaitable[None]) -> None:
    await kept


async def test_a_store_that_is_away_holds_up_no_handler_and_the_newest_state_wins() -> None:
    """TRAPS 6: states given meanwhile are replaced by the last one; a failed attempt waits until that is stored."""
    store = Store()
    store.there.clear()
    world = World(store)

    async def body(ctx: NodeContext) -> None:
        for number in range(5):
            ctx.checkpoint({"n": number, "pad": LARGE})
        asyncio.get_running_loop().call_later(0.1, store.there.set)
        raise NetworkError("away")

    with pytest.raises(ApplicationError) as failure:
        await world.run(body)
    assert failure.value.details[1]["number"] == 5
    assert store.saved[-1][0]["number"] == 5


async def test_a_cancelled_attempt_waits_for_the_store_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Postgres the state before it is given back: the run is not held up for ever."""
    monkeypatch.setattr("dalang.activities.checkpoints.SETTLE_SECONDS", 0.05)
    store = Store()
    store.there.clear()
    world = World(store)

    async def body(ctx: NodeContext) -> None:
        ctx.checkpoint({"n": 1})
        ctx.checkpoint({"n": 2, "pad": LARGE})
        await asyncio.sleep(3600)

    running = asyncio.create_task(world.run(body))
    await asyncio.wait_for(world.beat.wait(), PATIENCE)
    world.stop()
    assert (await running)["checkpoint"]["state"] == {"n": 1}


async def test_a_large_state_is_restored_by_its_reference() -> None:
    """The next attempt reads the table, which may have a newer state than the heartbeat refers to."""
    store = Store()
    newest: Checkpoint = {"begun": 5, "attempt": 1, "number": 4, "at": 6, "size": 5000}
    store.saved.append((newest, b'{"n":4}'))
    seen = []

    async def body(ctx: NodeContext) -> None:
        seen.append(ctx.restored)

    await World(store, 2, ({}, {**newest, "number": 3})).run(body)
    assert seen == [{"n": 4}]


async def test_only_a_node_that_was_started_before_asks_the_store() -> None:
    """A first start never waits for Postgres; one after an interrupt does when the workflow has no checkpoint."""
    store = Store()
    store.saved.append(({"begun": 5, "attempt": 1, "number": 4, "at": 6, "size": 7}, b"[4]"))
    seen = []

    async def body(ctx: NodeContext) -> None:
        seen.append(ctx.restored)

    await World(store).run(body)
    await World(store).run(body, starts=1)
    carried = {"begun": 9, "attempt": 1, "number": 1, "at": 9, "size": 3, "state": [9]}
    await World(store).run(body, starts=1, checkpoint=carried)
    assert seen == [None, [4], [9]]


async def test_a_thread_that_outlives_its_attempt_changes_nothing() -> None:
    """What it leaves after its attempt is over is dropped."""
    world = World(Store())
    contexts: list[NodeContext] = []

    async def body(ctx: NodeContext) -> None:
        contexts.append(ctx)

    await world.run(body)
    late = threading.Thread(target=lambda: contexts[0].checkpoint({"late": True}))
    late.start()
    late.join()
    await asyncio.sleep(0.01)
    assert not world.store.saved
    assert not world.beats


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [0, float("inf")]}, "state/a/1 is NaN or infinite"),
        ({1: 2}, "state has the key 1"),
        ("\ud800", "state holds a lone surrogate"),
        ({"x": object()}, "state/x is of type object"),
        ({"x": 2**60}, "state/x is an integer past"),
    ],
)
def test_a_state_that_is_no_json_is_refused_with_its_place(state: Any, place: str) -> None:
    """The handler learns at the call what it cannot leave."""
    ctx = NodeContext("n", "n", "x", "r", "t", {}, "key")
    with pytest.raises(InvalidInput, match=place):
        ctx.checkpoint(state)


def test_a_state_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit on everything that comes from outside."""
    monkeypatch.setattr("dalang.nodes.MAX_CHECKPOINT_BYTES", 10)
    ctx = NodeContext("n", "n", "x", "r", "t", {}, "key")
    with pytest.raises(InvalidInput, match="at most 10"):
        ctx.checkpoint("x" * 20)


async def test_a_context_of_a_test_takes_checkpoints() -> None:
    """Handlers are tested without a stack: the call and the await work, and keep nothing."""
    ctx = NodeContext("n", "n", "x", "r", "t", {}, "key", restored={"n": 1})
    await ctx.checkpoint({"n": 2})
    assert ctx.restored == {"n": 1}
