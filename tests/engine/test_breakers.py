"""Circuit breakers over real runs: a service that is down, runs that wait for it without attempts, two workers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dalang.nodes import LLMError, NodeContext, NodeFailure, agent, node
from dalang.settings import Settings
from dalang.store import breakers as store
from dalang.store.breakers import StoredBreaker
from dalang.store.engine import transaction
from dalang.worker import worker
from tests.engine.kit import TENANT, Engine, Started, engine, node_events
from tests.harness import PATIENCE

OPEN_SECONDS = 1.0
FAST = {"initialDelayMs": 10, "maxDelayMs": 10}


class Service(BaseHTTPRequestHandler):
    """Answers ``server.status``, and notes who called when."""

    def do_GET(self) -> None:
        """Answer."""
        server: Any = self.server
        with server.lock:
            server.calls.append((time.time(), self.headers["idempotency-key"]))
            server.busy += 1
            server.most = max(server.most, server.busy)
        status = server.status
        time.sleep(server.takes)
        with server.lock:
            server.busy -= 1
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        of: Any = server
        of.lock, of.calls, of.status, of.takes, of.busy, of.most = threading.Lock(), [], 503, 0.0, 0, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
async def running(settings: Settings) -> AsyncIterator[Engine]:
    """A worker whose breakers are OPEN for a second only."""
    quick = Settings.of({**settings.model_dump(), "breaker_open_seconds": OPEN_SECONDS})
    async with engine(quick) as ready:
        yield ready


def call(service: Any, node_id: str = "call", attempts: int = 10, **more: Any) -> dict[str, Any]:
    retry = {**FAST, "maxAttempts": attempts}
    url = f"http://127.0.0.1:{service.server_port}/x"
    return {"nodeId": node_id, "type": "http", "inputs": {"url": url}, "retryPolicy": retry, **more}


async def breaker(running: Engine, key: str) -> StoredBreaker | None:
    async with transaction(running.db, TENANT) as conn:
        return await store.read_breaker(conn, TENANT, key)


def key_of(service: Any) -> str:
    return f"http http://127.0.0.1:{service.server_port}"


def starts(stored: dict[str, Any], node_id: str = "call") -> list[int]:
    return [
        row["data"]["attempt"] for row in stored["events"] if (row["type"], row["node_id"]) == ("NODE_STARTED", node_id)
    ]


async def test_a_node_waits_for_a_service_that_is_down_and_loses_no_attempt(running: Engine, service: Any) -> None:
    """Five failures open the breaker; the run is QUEUED until somebody may try, and its attempts go on counting."""
    started = await running.start({"nodes": [call(service, attempts=7)]})
    await started.until("NODE_QUEUED", "call")
    found = await breaker(running, key_of(service))
    assert found is not None
    assert (found.state, found.failures, found.last_failure) == ("OPEN", 5, "NETWORK_ERROR")
    assert len(service.calls) == 5
    queued = next(row for row in (await started.stored())["events"] if row["type"] == "NODE_QUEUED")
    assert queued["data"]["reason"] == "breaker"
    assert queued["data"]["short"] == [f"breaker {key_of(service)}"]
    service.status = 200
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert starts(end) == [1, 6]
    assert [row["attempt"] for row in end["attempts"]] == [1, 2, 3, 4, 5]
    assert end["nodes"]["call"]["attempt"] == 6
    assert len(service.calls) == 6
    assert service.calls[5][0] - service.calls[4][0] >= OPEN_SECONDS - 0.05
    assert len({key for _, key in service.calls}) == 1
    assert await running.chain_problem(started.run_id) is None


async def test_the_number_of_attempts_holds_over_deferrals(running: Engine, service: Any) -> None:
    """The service stays down: seven attempts are seven, though the breaker opened after the fifth and the sixth."""
    end = await (await running.start({"nodes": [call(service, attempts=7)]})).end()
    assert end["run"]["status"] == "FAILED"
    assert end["run"]["error"]["attempt"] == 7
    assert starts(end) == [1, 6, 7]
    assert [row["attempt"] for row in end["attempts"]] == [1, 2, 3, 4, 5, 6, 7]
    assert len(service.calls) == 7


async def test_one_attempt_is_one_however_often_it_is_deferred(running: Engine, service: Any) -> None:
    """A node with a single attempt waits as often as it must, and then makes it."""
    await (await running.start({"nodes": [call(service, attempts=5)]})).end()
    started = await running.start({"nodes": [call(service, attempts=1)]})
    await started.until("NODE_QUEUED", "call")
    assert len(service.calls) == 5
    service.status = 200
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert set(starts(end)) == {1}
    assert end["attempts"] == []
    assert len(service.calls) == 6


async def test_two_workers_share_it_and_let_a_few_through_on_trial(running: Engine, service: Any) -> None:
    """Many runs wait; in the half-open moment two calls are made at once, and after their success all the others."""
    quick = running.settings
    async with worker(quick):
        await (await running.start({"nodes": [call(service, attempts=5)]})).end()
        before = len(service.calls)
        async with transaction(running.db, TENANT) as conn:  # until all have asked, on a slow machine too
            await store.force_open(conn, TENANT, key_of(service), 5_000, "test", None)
        plan = {"nodes": [call(service, f"n{at}", 1) for at in range(10)]}
        runs = [await running.start(plan) for _ in range(2)]
        for run in runs:
            await run.until("NODE_QUEUED", "n9")
        assert len(service.calls) == before
        service.status, service.takes, service.most = 200, 1.0, 0
        ends = [await run.end() for run in runs]
    assert {end["run"]["status"] for end in ends} == {"COMPLETED"}
    assert len(service.calls) == before + 20
    calls = [at for at, _ in service.calls[before:]]
    early = [at for at in calls if at < calls[0] + 0.95]
    assert len(early) == 2, "before the first has answered two are on trial"
    found = await breaker(running, key_of(service))
    assert found is not None
    assert found.state == "CLOSED"


async def test_what_a_service_refuses_opens_nothing(running: Engine, service: Any) -> None:
    """404 is an answer: the service is there. 500 is none."""
    service.status = 404
    nodes = [call(service, f"n{at}", 1) for at in range(8)]
    await (await running.start({"nodes": nodes, "failurePolicy": "continue", "maxInFlight": 1})).end()
    assert await breaker(running, key_of(service)) is None
    service.status = 500
    started = await running.start({"nodes": nodes[:5], "failurePolicy": "continue", "maxInFlight": 1})
    await started.end()
    found = await breaker(running, key_of(service))
    assert found is not None
    assert found.state == "OPEN"


async def test_a_failed_trial_opens_it_again(running: Engine, service: Any) -> None:
    started = await running.start({"nodes": [call(service, attempts=20)]})
    async with asyncio.timeout(PATIENCE):
        while len(service.calls) < 7:
            await asyncio.sleep(0.05)
    found = await breaker(running, key_of(service))
    assert found is not None
    assert found.openings >= 2
    service.status = 200
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"


async def test_cancelled_while_it_waits(running: Engine, service: Any) -> None:
    started = await running.start({"nodes": [call(service, attempts=20)]})
    await started.until("NODE_QUEUED", "call")
    await started.handle.execute_update("cancel", {})
    end = await started.end()
    assert end["run"]["status"] == "CANCELLED"
    assert node_events(end, "call")[-1] == "NODE_CANCELLED"


states: Counter[str] = Counter()
failing: set[str] = set()


@node("t-breaks", endpoint=lambda inputs: inputs.get("host"))
async def breaks(ctx: NodeContext, host: str = "", name: str = "", **more: Any) -> dict[str, Any]:
    """Fail as long as the test says so, with a checkpoint of how often."""
    states[name] += 1
    if name in failing:
        ctx.checkpoint({"calls": states[name]})
        raise NodeFailure("away", type="NETWORK_ERROR")
    return {"restored": ctx.restored, "attempt": ctx.attempt}


@node("t-breaks-never", endpoint="")
async def breaks_never(ctx: NodeContext) -> None:
    """Fail with what would open a breaker."""
    raise NodeFailure("away", type="NETWORK_ERROR")


@agent("t-model", capabilities=["t-thinking"])
async def model(ctx: NodeContext) -> None:
    """A model that is overloaded."""
    raise LLMError("overloaded", retryable=False)


def own(kind: str, node_id: str = "n", attempts: int = 6, **inputs: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": kind, "inputs": inputs, "retryPolicy": {**FAST, "maxAttempts": attempts}}


async def test_what_a_node_left_is_there_after_a_deferral(running: Engine) -> None:
    """The checkpoint of the fifth attempt reaches the sixth, in another activity."""
    failing.add("left")
    started = await running.start({"nodes": [own("t-breaks", name="left", host="h1")]})
    await started.until("NODE_QUEUED", "n")
    failing.discard("left")
    end = await started.end()
    outputs = next(row["body"]["outputs"] for row in end["events"] if row["type"] == "NODE_COMPLETED")
    assert outputs == {"restored": {"calls": 5}, "attempt": 6}


async def test_a_function_says_whom_it_calls(running: Engine) -> None:
    """Each endpoint has a breaker of its own, and what calls nobody has none."""
    failing.add("one")
    nodes = [own("t-breaks", "a", 5, name="one", host="h2"), own("t-breaks", "b", 1, name="two", host="h3")]
    end = await (await running.start({"nodes": nodes, "failurePolicy": "continue"})).end()
    assert end["nodes"]["b"]["status"] == "SUCCESS"
    assert (await breaker(running, "t-breaks h2")) is not None
    assert (await breaker(running, "t-breaks h3")) is None
    await (await running.start({"nodes": [own("t-breaks-never", attempts=8)]})).end()
    async with transaction(running.db, TENANT) as conn:
        assert not [row for row in (await store.list_breakers(conn, TENANT)).items if "never" in row.key]
    failing.discard("one")


async def test_agents_have_one_each(running: Engine) -> None:
    """However it was chosen; a model that is overloaded counts."""
    plan: dict[str, Any] = {
        "nodes": [
            {"nodeId": "a", "type": "agent", "handler": "t-model"},
            {"nodeId": "b", "type": "agent", "requirements": {"capabilities": ["t-thinking"]}},
        ],
        "failurePolicy": "continue",
    }
    await (await running.start(plan)).end()
    found = await breaker(running, "agent t-model")
    assert found is not None
    assert (found.failures, found.last_failure) == (2, "LLM_ERROR")


async def test_undos_are_not_held_up(running: Engine, service: Any) -> None:
    """The breaker is open when the run is cancelled; the undo calls all the same, and what comes of it counts."""
    done = {**call(service, "done", 1), "compensation": {"type": "http", "inputs": call(service)["inputs"]}}
    service.status = 200
    plan = {
        "nodes": [done, {"nodeId": "hang", "type": "t-hang"}],
        "edges": [{"sourceNodeId": "done", "targetNodeId": "hang"}],
    }
    started: Started = await running.start(plan)
    await started.until("NODE_STARTED", "hang")
    async with transaction(running.db, TENANT) as conn:
        await store.force_open(conn, TENANT, key_of(service), 600_000, "ann", None)
    await started.handle.execute_update("cancel", {})
    end = await started.end()
    assert end["nodes"]["done"]["status"] == "COMPENSATED"
    assert len(service.calls) == 2
