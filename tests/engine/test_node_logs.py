"""What handlers log is kept with their run: whose line it is, in which order, how much of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import Any
from uuid import UUID

import pytest

from dalang.activities import node_logs
from dalang.activities.node_logs import NodeLogs
from dalang.activities.secrets import MaskedLogs
from dalang.nesting import child_run_id
from dalang.nodes import NetworkError, NodeContext, node
from dalang.store.engine import transaction
from dalang.store.node_logs import LogLine, list_lines
from tests.engine.kit import TENANT, Engine
from tests.harness import PATIENCE

logger = logging.getLogger("tests.handlers")
ONCE = {"retryPolicy": {"maxAttempts": 1}}


@pytest.fixture(autouse=True)
def _from_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@node("t-logs", light=True)
async def logs(ctx: NodeContext, lines: int = 1) -> None:
    """Log from a coroutine and from a task that it begins; the first attempt fails if it has another."""
    for number in range(lines):
        logger.info("line %d", number)
    await asyncio.create_task(_in_a_task())
    if ctx.attempt < ctx.max_attempts:
        try:
            raise NetworkError("nobody answers")
        except NetworkError:
            logger.exception("it went wrong with Bearer abcdefghijklmnopqrstuvwxyz")
            raise


async def _in_a_task() -> None:
    logger.warning("from a task\x00")


@node("t-logs-thread")
def logs_thread(ctx: NodeContext) -> None:
    """Log from the thread of a plain function."""
    logger.info("in %s", "a thread" if threading.current_thread() is not threading.main_thread() else "the loop")


async def until_lines(engine: Engine, run_id: str, count: int) -> list[LogLine]:
    """Wait until so many lines of a run are kept, and return them."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with transaction(engine.db, TENANT) as conn:
                found = await list_lines(conn, TENANT, UUID(run_id))
            if len(found) >= count:
                return [line for _, line in found]
            await asyncio.sleep(0.05)


async def test_lines_are_kept_by_node_and_attempt(shared_engine: Engine) -> None:
    """Of a coroutine, a task and a thread; with the stack of an exception, without what looks like a token."""
    plan = {
        "nodes": [
            {"nodeId": "a", "type": "t-logs", "retryPolicy": {"initialDelayMs": 10, "maxAttempts": 2}},
            {"nodeId": "b", "type": "t-logs-thread"},
        ],
        "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}],
    }
    started = await shared_engine.start(plan)
    await started.end()
    lines = await until_lines(shared_engine, started.run_id, 6)
    assert [(line.node_id, line.attempt, line.level, line.message) for line in lines] == [
        ("a", 1, "INFO", "line 0"),
        ("a", 1, "WARNING", "from a task\ufffd"),
        ("a", 1, "ERROR", "it went wrong with Bearer ***"),
        ("a", 2, "INFO", "line 0"),
        ("a", 2, "WARNING", "from a task\ufffd"),
        ("b", 1, "INFO", "in a thread"),
    ]
    assert (lines[2].error or "").endswith("NetworkError: nobody answers")
    assert {line.logger for line in lines} == {"tests.handlers"}


async def test_lines_of_light_nodes_and_of_runs_below_nodes_are_theirs(shared_engine: Engine) -> None:
    """A segment's nodes each have their own; those of a run below wait for its row, which is made at its end."""
    inner = {"name": "inner", "nodes": [{"nodeId": "x", "type": "t-logs", **ONCE}]}
    light = [{"nodeId": name, "type": "t-logs", "execution": "local", **ONCE} for name in ("a", "b")]
    started = await shared_engine.start({"nodes": [*light, {"nodeId": "below", "type": "plan", "plan": inner}]})
    await started.end()
    lines = await until_lines(shared_engine, started.run_id, 4)
    assert sorted(line.node_id for line in lines) == ["a", "a", "b", "b"]
    below = await until_lines(shared_engine, str(child_run_id(started.run_id, "below", 0, 0)), 2)
    assert [line.node_id for line in below] == ["x", "x"]


async def test_of_an_attempt_that_logs_too_much_the_first_lines_are_kept(
    shared_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one says that there were more; another attempt may log as much again."""
    monkeypatch.setattr(node_logs, "ATTEMPT_CHARACTERS", 60)
    plan: dict[str, Any] = {"nodes": [{"nodeId": "a", "type": "t-logs", "inputs": {"lines": 100}, **ONCE}]}
    plan["nodes"].append({"nodeId": "b", "type": "t-logs-thread"})
    started = await shared_engine.start(plan)
    await started.end()
    lines = await until_lines(shared_engine, started.run_id, 12)
    of_a = [line for line in lines if line.node_id == "a"]
    assert [line.message for line in of_a[:-1]] == [f"line {number}" for number in range(10)]
    assert (of_a[-1].level, of_a[-1].message) == ("WARNING", "This attempt logs more than is kept of one.")


async def test_lines_that_cannot_be_written_are_tried_again_and_then_dropped(
    shared_engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler notices nothing; what is too old is given up."""
    kept = NodeLogs(shared_engine.db, most=10)
    task: Any = {"tenantId": TENANT, "runId": str(UUID(int=7)), "nodeId": "a", "generation": 0}
    logging.getLogger().addHandler(kept)
    try:
        with kept.listening(task, 1):
            logger.info("of a run that never comes")
        logger.info("of nobody")
    finally:
        logging.getLogger().removeHandler(kept)
    assert [one.line.message for one in kept._waiting] == ["of a run that never comes"]
    assert not await kept._keep()
    assert len(kept._waiting) == 1
    monkeypatch.setattr(node_logs, "RUN_COMES_SECONDS", 0)
    assert not await kept._keep()
    assert not kept._waiting


async def test_a_line_holds_up_no_other(shared_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its level is called; a filter that writes a secret into it later than where it was masked tells none."""
    run_id = (await shared_engine.start({"nodes": [{"nodeId": "a", "type": "noop"}]})).run_id
    kept = NodeLogs(shared_engine.db, most=10)
    task: Any = {"tenantId": TENANT, "runId": run_id, "nodeId": "a", "generation": 0}
    own = logging.getLogger("tests.handlers.odd")
    monkeypatch.setattr(own, "propagate", False)  # xdist ends with what cannot be written as UTF-8 and pytest has heard
    secrets = MaskedLogs()
    secrets._install = lambda: None  # type: ignore[method-assign]
    secrets.add(["a-password-of-peers"])
    monkeypatch.setattr(node_logs, "in_logs", secrets)
    monkeypatch.setattr(logging, "_levelToName", {**logging._levelToName, 21: "ODD\x00\ud800" * 99})

    def addressed(record: logging.LogRecord) -> bool:
        record.msg += " from http://me:a-password-of-peers@peer"
        return True

    own.addFilter(addressed)
    own.addHandler(kept)
    try:
        with kept.listening(task, 1):
            own.log(21, "odd")
            own.error("plain", exc_info=ValueError("a-password-of-peers"))
    finally:
        own.removeFilter(addressed)
        own.removeHandler(kept)
    assert await kept._keep()
    lines = await until_lines(shared_engine, run_id, 2)
    assert [line.message for line in lines] == [f"{one} from http://me:***@peer" for one in ("odd", "plain")]
    assert lines[0].level.startswith("ODD\ufffd")
    assert (lines[1].error or "").endswith("ValueError: ***")


async def test_the_oldest_lines_are_dropped_for_newer_ones(
    shared_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while those that could not be written come back; how many they were is told."""
    kept = NodeLogs(shared_engine.db, most=10)
    monkeypatch.setattr(node_logs, "MAX_WAITING", 3)
    kept._waiting = deque(maxlen=3)
    task: Any = {"tenantId": TENANT, "runId": str(UUID(int=7)), "nodeId": "a", "generation": 0}

    def say(*numbers: int) -> None:
        for number in numbers:
            with kept.listening(task, 1):
                kept.handle(logging.makeLogRecord({"msg": f"{number}", "levelname": "INFO"}))

    async def away(*_: Any) -> list[LogLine]:
        if not kept._dropped:
            say(3, 4)
        raise OSError("away")

    monkeypatch.setattr(node_logs, "keep_lines", away)
    say(0, 1, 2)
    assert not await kept._keep()
    assert [one.line.message for one in kept._waiting] == ["2", "3", "4"]
    say(5)
    monkeypatch.setattr(node_logs, "PAUSE_SECONDS", 0)
    async with kept.keeping(), asyncio.timeout(PATIENCE):
        while "3 lines of nodes are not kept" not in caplog.text:
            await asyncio.sleep(0.01)


async def test_the_batch_at_hand_is_written_before_the_worker_ends(
    shared_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines wait nowhere else any more."""
    begun, go_on, written = asyncio.Event(), asyncio.Event(), list[str]()

    async def slowly(conn: Any, tenant_id: str, lines: list[LogLine]) -> list[LogLine]:
        begun.set()
        await go_on.wait()
        written.extend(line.message for line in lines)
        return []

    monkeypatch.setattr(node_logs, "keep_lines", slowly)
    monkeypatch.setattr(node_logs, "PAUSE_SECONDS", 0)
    kept = NodeLogs(shared_engine.db, most=10)
    task: Any = {"tenantId": TENANT, "runId": str(UUID(int=7)), "nodeId": "a", "generation": 0}
    async with kept.keeping():
        with kept.listening(task, 1):
            logger.info("the last line")
        await asyncio.wait_for(begun.wait(), PATIENCE)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert written == ["the last line"]
