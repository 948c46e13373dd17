"""The plans whose histories are kept: every node type and every control of the workflow, each as small as it can be.

A plan here never changes; a new feature gets a new entry, and ``python -m tests.replay.record`` its history.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from temporalio.client import WorkflowUpdateFailedError

from dalang.authority import Approval, approval_token, run_authority, signed_request
from dalang.signing import Keyring, key_id
from dalang.store.breakers import breaker_id, force_open, reset
from dalang.store.engine import transaction
from tests.engine.kit import TENANT, Started, noop_chain
from tests.harness import PATIENCE
from tests.replay.agent_acts import agent_that_asks, agent_that_remembers, agents_at_work


async def _nothing(started: Started) -> None:
    """Let it run."""


async def _pause_and_resume(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.execute_update("pause", {"operator": "ann", "reason": "look"})
    await started.handle.signal("resume", {"operator": "ann"})
    await started.until("PLAN_RESUMED")


async def _cancel_by_signal(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("cancel", {"reason": "enough"})


async def _cancel_by_temporal(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.cancel()


async def _raise_budget(started: Started) -> None:
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("raise_budget", {"tokens": 100, "wallTimeMs": 3_600_000, "operator": "kim"})


async def _resume_next_day(started: Started) -> None:
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("resume", {"operator": "kim"})


async def _signals_at_once(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    for name in ("pause", "resume", "resume", "pause", "resume"):
        await started.handle.signal(name, {"operator": name})


async def _bad_requests(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("pause", args=[1, 2, 3])
    await started.handle.signal("nonsense", "x")
    await started.handle.signal("resume", {"reason": 5})
    await started.handle.signal("cancel", {"typo": "x"})
    await started.until("REQUEST_REJECTED")


@dataclass(frozen=True)
class Recorded:
    """A plan, what to send into its run, and the state it starts with."""

    plan: dict[str, Any]
    act: Callable[[Started], Awaitable[None]] = _nothing
    inputs: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    below: str | None = None
    """A node below which a run is kept, too."""
    pools: dict[str, float] = field(default_factory=dict)
    """Pools that are made before it starts, and their sizes; the run's state names them as ``limits``."""


def _node(node_id: str, kind: str = "noop", **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": kind, **more}


def _edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"sourceNodeId": source, "targetNodeId": target, **more}


def _carried(kind: str, coordinate: str, **more: Any) -> dict[str, Any]:
    return {"descriptor": {"implementation": {"type": kind, "coordinate": coordinate, **more}}}


_BEGINNING: dict[str, Any] = {
    "status": "PENDING",
    "seq": 0,
    "outputs": [],
    "errors": [],
    "result": None,
    "error": None,
    "ending": None,
    "reason": None,
    "closing": False,
    "toStop": [],
    "awaiting": [],
    "heldByFailure": False,
    "given": [],
    "generations": [],
    "overrides": [],
    "about": {"id": "second"},
}
"""What a seed's snapshot holds besides statuses and edges."""


async def _early_late_repeated(started: Started) -> None:
    await started.handle.signal("external_event", {"name": "x", "payload": {"n": 1}, "eventId": "1"})
    await started.handle.signal("external_event", {"name": "x", "payload": {"n": 1}, "eventId": "1"})
    await started.until("NODE_WAITING", "b")
    await started.handle.execute_update("external_event", {"name": "x", "payload": {"n": 2}})


async def _call_back(started: Started) -> None:
    await started.until("NODE_STARTED", "early")
    await started.handle.signal("callback", {"nodeId": "early", "callbackId": "1", "outputs": {"n": 1}})
    for node in ("late", "failed"):
        await started.until("NODE_WAITING", node)
    await started.handle.signal("callback", {"nodeId": "late", "callbackId": "2", "generation": 3})
    await started.handle.execute_update("callback", {"nodeId": "late", "callbackId": "3", "outputs": {"n": 2}})
    error = {"type": "LLM_ERROR", "message": "no"}
    await started.handle.signal("callback", {"nodeId": "failed", "callbackId": "4", "error": error})


_RESOURCES = {"requirements": {"resources": {"memoryMb": 64}}}
_FLAKY = {"retryPolicy": {"initialDelayMs": 10}}


async def _retry_then_skip(started: Started) -> None:
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("retry_node", {"nodeId": "a", "inputs": {"x": 0}})
    while sum(row["type"] == "NODE_FAILED" for row in (await started.stored())["events"]) < 2:
        await started.until("NODE_FAILED")
    await started.handle.execute_update("skip_node", {"nodeId": "a", "outputs": {"x": 1}})


_UNDO = {"compensation": {"type": "t-value", "inputs": {"of": "${undoes.key}"}}}


async def _cancel_twice(started: Started) -> None:
    await started.until("NODE_STARTED", "b")
    await started.handle.signal("cancel", {"reason": "enough"})
    await started.until("NODE_COMPENSATING", "b")
    await started.handle.signal("cancel", {"reason": "again"})
    await started.handle.cancel()


_SUB = {"nodes": [_node("i", "t-value", inputs={"x": "${inputs.?x.orValue(0)}"})]}

_INTERRUPT = {"operator": "ann", "mode": "interrupt"}


async def _interrupt_and_resume(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.execute_update("pause", _INTERRUPT)
    await started.until("NODE_INTERRUPTED", "a")
    await started.handle.execute_update("resume", {})


async def _interrupt_and_cancel(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("pause", _INTERRUPT)
    await started.handle.signal("cancel", {"reason": "enough"})


async def _interrupt_between_attempts(started: Started) -> None:
    while not (await started.stored())["attempts"]:
        await started.until("NODE_STARTED", "a")
    await _interrupt_and_resume(started)


async def _retry_and_resolve_the_undo(started: Started) -> None:
    for number, more in enumerate(({"action": "retry", "inputs": {"x": 0}}, {"action": "resolve"})):
        tasks: list[str] = []
        while len(tasks) <= number:
            await started.until("HITL_TASK_CREATED", "a")
            rows = (await started.stored())["events"]
            tasks = [row["data"]["task"] for row in rows if row["type"] == "HITL_TASK_CREATED"]
        decision = {"taskId": tasks[number], "operator": "ann", **more}
        await started.handle.execute_update("complete_human_task", decision)


_REVIEW = {"due": "1h", "reminder": "10m", "candidateGroup": "ops", "title": "Look at ${nodes.a.outputs.x}"}


async def _tasks(started: Started, count: int = 1) -> list[str]:
    """Return the ids of the open tasks when there are so many."""
    while len(found := (await started.handle.query("tasks"))["tasks"]) < count:
        await asyncio.sleep(0.05)
    return [task["taskId"] for task in found]


async def _decide_by_update(started: Started) -> None:
    (task,) = await _tasks(started)
    who = {"taskId": task, "operator": "ann"}
    await started.handle.execute_update("claim_human_task", who)
    await started.handle.execute_update("release_human_task", who)
    decision = {**who, "action": "edit", "outputs": {"y": 2}, "decisionId": "d1"}
    await started.handle.execute_update("complete_human_task", decision)


async def _answer_questions(started: Started) -> None:
    for number in (1, 2):
        while len(tasks := (await started.handle.query("tasks"))["tasks"]) < 3 - number:
            await asyncio.sleep(0.05)
        decision = {"taskId": tasks[0]["taskId"], "operator": f"p{number}"}
        given = {"action": "answer", "values": {"region": "eu"}} if number == 1 else {"action": "reject"}
        await started.handle.execute_update("complete_human_task", {**decision, **given})


async def _vote_by_signal(started: Started) -> None:
    (task,) = await _tasks(started)
    for operator in ("ann", "ann", "bob"):
        decision = {"taskId": task, "operator": operator, "action": "approve", "decisionId": operator}
        await started.handle.signal("complete_human_task", decision)
    await started.until("PLAN_RESUMED")
    (task,) = await _tasks(started)
    await started.handle.signal("delegate_human_task", {"taskId": task, "operator": "ann", "to": "eve"})
    await started.handle.signal("complete_human_task", {"taskId": task, "operator": "ann", "action": "reject"})
    await started.handle.signal("complete_human_task", {"taskId": task, "operator": "eve", "action": "reject"})


async def _ask_about_failures(started: Started) -> None:
    tasks = {task["nodeId"]: task["taskId"] for task in (await _all_tasks(started, 2))}
    retry = {"taskId": tasks["a"], "operator": "ann", "action": "retry", "inputs": {"x": 2}}
    await started.handle.execute_update("complete_human_task", retry)
    await started.handle.execute_update("skip_node", {"nodeId": "b", "operator": "ann"})


async def _all_tasks(started: Started, count: int) -> list[dict[str, str]]:
    await _tasks(started, count)
    found: list[dict[str, str]] = (await started.handle.query("tasks"))["tasks"]
    return found


async def _cancel_when_asked(started: Started) -> None:
    await started.until("PLAN_AWAITING_HITL")
    await started.handle.execute_update("pause", {})
    await started.handle.execute_update("cancel", {"reason": "enough"})


_ENDPOINT = {"failures": 1, "endpoint": "replay"}


async def _break(started: Started) -> None:
    """Open the breaker between the first attempt and the second, which is deferred and begins in another activity."""
    async with asyncio.timeout(PATIENCE):
        while not (await started.stored())["attempts"]:
            await asyncio.sleep(0.02)
    async with transaction(started.engine.db, TENANT) as conn:
        await force_open(conn, TENANT, "t-flaky replay", 3_000, "ann", None)
    await started.until("NODE_QUEUED", "a")
    async with transaction(started.engine.db, TENANT) as conn:
        await reset(conn, TENANT, breaker_id(TENANT, "t-flaky replay"), "ann", None)


async def _break_and_cancel(started: Started) -> None:
    await _break(started)
    await started.handle.execute_update("cancel", {})


async def _replan(started: Started) -> None:
    await started.until("NODE_STARTED", "s")
    patch = {"addNodes": [_node("n")], "addEdges": [_edge("a", "n"), _edge("n", "z")], "set": {"timeout": "2h"}}
    await started.handle.execute_update("replan", {"patch": patch, "operator": "ann"})
    for bad in ({"removeNodes": ["nobody"]}, {"changeInputs": {"a": {"x": 1}}}):
        with contextlib.suppress(WorkflowUpdateFailedError):
            await started.handle.execute_update("replan", {"patch": bad})
    await started.handle.signal("replan", {"patch": {"changeInputs": {"z": {"x": 1}}}, "expectedRevision": 2})


_JUDGED = {
    "nodes": [
        _node("draft", "t-value", inputs={"words": 4}),
        _node("judge", "t-judge", evaluator=True),
        _node("publish", "t-value"),
    ],
    "edges": [_edge("draft", "judge"), _edge("judge", "publish")],
}


def _needs(**pools: float) -> dict[str, Any]:
    return {"requirements": {"pools": pools}}


async def _pause_while_queued(started: Started) -> None:
    await started.until("NODE_STARTED")
    await started.until("NODE_QUEUED", "b")
    await started.handle.execute_update("pause", {"operator": "ann"})
    await started.until("NODE_DEQUEUED", "b")
    await started.handle.signal("leases", {"leases": [{"nodeId": "b", "ask": 1, "state": "GRANTED"}]})
    await started.handle.signal("leases", {"leases": "none"})
    await started.handle.execute_update("resume", {"operator": "ann"})


def _wants(capability: str) -> dict[str, Any]:
    return {**_FLAKY, "requirements": {"capabilities": [capability]}}


PLANS: dict[str, Recorded] = {
    "agents": Recorded(
        {
            "nodes": [
                _node("s", "sleep", inputs={"duration": "2s"}),
                _node("asks", "agent", **_wants("h-asks")),
                _node("queue", "of-theirs", **_wants("h-queue")),
                _node("hangs", "of-theirs", **_wants("h-queue")),
            ],
            "edges": [_edge("s", "asks"), _edge("asks", "queue"), _edge("queue", "hangs")],
        },
        agents_at_work,
        state={"limits": ["capability:h-asks", "capability:h-queue"]},
    ),
    "leases": Recorded(
        {
            "failurePolicy": "continue",
            "nodes": [
                _node("a", "t-flaky", **_FLAKY, **_needs(desk=1)),
                _node("b", "t-value", requirements={"pools": {"desk": {"key": "${inputs.n}"}}}),
                _node("c", "t-value", **_needs(desk=1)),
                _node("d", "t-value", **_needs(desk=2)),
                _node("e", "t-value"),
            ],
            "edges": [_edge("e", "c", mapping={})],
        },
        inputs={"n": 1},
        state={"limits": ["desk"]},
        pools={"desk": 1},
    ),
    "leases-paused": Recorded(
        {
            "nodes": [
                _node("s", "sleep", inputs={"duration": "300ms"}),
                _node("a", "t-hang", timeouts={"startToClose": "3s"}, retryPolicy={"maxAttempts": 1}, **_needs(seat=1)),
                _node("b", "t-value", **_needs(seat=1)),
            ],
            "edges": [_edge("s", "b")],
            "failurePolicy": "continue",
        },
        _pause_while_queued,
        state={"limits": ["seat"]},
        pools={"seat": 1},
    ),
    "leases-left-alone": Recorded(
        {"nodes": [_node("a", "t-flaky", inputs={"failures": 1, "retry_after": 0.2}, **_FLAKY, **_needs(bench=1))]},
        state={"limits": ["bench"]},
        pools={"bench": 1},
    ),
    "llm": Recorded(
        {
            "planner": {"type": "llm", "inputs": {"model": "openai-compatible:good"}},
            "nodes": [
                _node("write", "llm", inputs={"model": "openai-compatible:rate-limit-briefly-once", "prompt": "Tea."}),
                _node(
                    "judge",
                    "llm",
                    evaluator=True,
                    inputs={"model": "openai-compatible:good", "prompt": "Long? ${nodes.write.outputs.text}"},
                ),
                _node("publish"),
            ],
            "edges": [_edge("write", "judge"), _edge("judge", "publish")],
        }
    ),
    "leases-cancelled": Recorded(
        {"nodes": [_node("a", "t-hang", **_needs(chair=1)), _node("b", "t-value", **_needs(chair=1))]},
        _cancel_by_signal,
        state={"limits": ["chair"]},
        pools={"chair": 1},
    ),
    "replan": Recorded(
        {
            "timeout": "1h",
            "nodes": [_node("a"), _node("s", "sleep", inputs={"duration": "3s"}), _node("z")],
            "edges": [_edge("a", "s"), _edge("s", "z")],
        },
        _replan,
    ),
    "planner": Recorded(
        {**_JUDGED, "planner": {"handler": "t-planner", "inputs": {"way": "badly-first"}}}, state={"historyLimit": 30}
    ),
    "planner-fails": Recorded({**_JUDGED, "planner": {"handler": "t-planner", "inputs": {"way": "fail"}}}),
    "auto-fix": Recorded({"planner": {"handler": "t-planner"}, "nodes": [_node("a", "t-fixable", inputs={"x": 1})]}),
    "chain": Recorded(noop_chain(5)),
    "data": Recorded(
        {
            "nodes": [_node("a", "t-value", inputs={"x": "${inputs.n + 1}"}), _node("b", "t-value")],
            "edges": [_edge("a", "b", mapping={"x": "y"}, condition="outputs.x > 1")],
            "outputs": {"y": "${nodes.b.outputs.y}"},
        },
        inputs={"n": 1},
    ),
    "retries": Recorded(
        {
            "nodes": [
                _node("fixed", "t-flaky", retryPolicy={"backoffStrategy": "FIXED", "initialDelayMs": 10}),
                _node("linear", "t-flaky", retryPolicy={"backoffStrategy": "LINEAR", "initialDelayMs": 10}),
                _node("jitter", "t-flaky", retryPolicy={"jitter": True, "initialDelayMs": 10}),
            ]
        }
    ),
    "error-edge": Recorded(
        {
            "nodes": [_node("a", "t-fail"), _node("handler"), _node("after")],
            "edges": [_edge("a", "handler", sourcePort="error"), _edge("a", "after")],
        }
    ),
    "fail-fast": Recorded(
        {
            "nodes": [_node("a", "t-fail"), _node("b", "t-hang"), _node("c")],
            "edges": [_edge("b", "c")],
            "finally": [_node("f")],
        }
    ),
    "continue": Recorded(
        {
            "failurePolicy": "continue",
            "nodes": [_node("a", "t-fail"), _node("b"), _node("d")],
            "edges": [_edge("a", "d"), _edge("b", "d")],
        }
    ),
    "joins": Recorded(
        {
            "nodes": [_node("a"), _node("b", "t-fail"), _node("any", join="any"), _node("done", join="allDone")],
            "failurePolicy": "continue",
            "edges": [_edge("a", "any"), _edge("b", "any"), _edge("a", "done"), _edge("b", "done")],
        }
    ),
    "sleep": Recorded({"nodes": [_node("s", "sleep", inputs={"duration": "50ms"})]}),
    "agent": Recorded({"nodes": [_node("a", "agent", requirements={"capabilities": ["t-testing"]})]}),
    "http": Recorded(
        {"nodes": [_node("a", "http", inputs={"url": "http://127.0.0.1:9/"}, retryPolicy={"maxAttempts": 1})]}
    ),
    "implementations": Recorded(
        {
            "failurePolicy": "continue",
            "nodes": [
                _node("a", "score", **_carried("python", "t-value"), inputs={"x": 1}),
                _node("b", "score", **_carried("http", "http://127.0.0.1:9/"), retryPolicy={"maxAttempts": 1}),
                _node("c", "score", **_carried("wasm", "no.wasm", digest="0" * 64)),
                _node("d", "container", **_carried("container", "words", digest="0" * 64), **_RESOURCES),
                _node("e", "runtime-hub", inputs={"url": "http://127.0.0.1:9"}, retryPolicy={"maxAttempts": 1}),
            ],
        }
    ),
    "python": Recorded({"nodes": [_node("a", "python", handler="t-value", inputs={"x": 1})]}),
    "time-out": Recorded({"nodes": [_node("a", "t-hang", timeouts={"startToClose": "100ms"}, **_FLAKY)]}),
    "interrupt": Recorded(
        {
            "nodes": [_node("a", "t-saves"), _node("b"), _node("s", "sleep", inputs={"duration": "1s"})],
            "edges": [_edge("a", "b")],
        },
        _interrupt_and_resume,
    ),
    "interrupt-cancel": Recorded({"nodes": [_node("a", "t-saves"), _node("b", "t-hang")]}, _interrupt_and_cancel),
    "interrupt-retrying": Recorded(
        {
            "nodes": [
                _node(
                    "a",
                    "t-saves",
                    inputs={"failing": True},
                    retryPolicy={"backoffStrategy": "FIXED", "initialDelayMs": 1_000, "maxAttempts": 5},
                )
            ]
        },
        _interrupt_between_attempts,
    ),
    "run-time-out": Recorded({"timeout": "200ms", "nodes": [_node("a", "t-hang")]}),
    "signals-at-once": Recorded(
        {"nodes": [_node("a", "sleep", inputs={"duration": "1s"}), _node("b")]}, _signals_at_once
    ),
    "pause": Recorded({"nodes": [_node("a", "sleep", inputs={"duration": "1s"}), _node("b")]}, _pause_and_resume),
    "cancel-signal": Recorded({"nodes": [_node("a", "t-hang")]}, _cancel_by_signal),
    "cancel-temporal": Recorded({"nodes": [_node("a", "t-hang")]}, _cancel_by_temporal),
    "bad-requests": Recorded({"nodes": [_node("a", "sleep", inputs={"duration": "1s"})]}, _bad_requests),
    "continue-as-new": Recorded(
        {
            "nodes": [*noop_chain(20)["nodes"], _node("s", "sleep", inputs={"duration": "2s"})],
            "edges": noop_chain(20)["edges"],
            "timeout": "1h",
        },
        state={"historyLimit": 60},
    ),
    "decisions": Recorded(
        {
            "failurePolicy": "pause",
            "nodes": [_node("a", "t-needs", inputs={"x": 1}), _node("b")],
            "edges": [_edge("a", "b")],
        },
        _retry_then_skip,
    ),
    "timer": Recorded(
        {
            "nodes": [
                _node("t", "timer", inputs={"duration": "50ms"}),
                _node("past", "timer", inputs={"until": "2026-01-01T00:00:00Z"}),
                _node("b"),
            ],
            "edges": [_edge("t", "b"), _edge("past", "b")],
        }
    ),
    "event": Recorded(
        {
            "nodes": [
                _node("g", "sleep", inputs={"duration": "200ms"}),
                _node("a", "event", inputs={"name": "x"}),
                _node("b", "event", inputs={"name": "x", "timeout": "1h"}),
                _node("late", "event", inputs={"name": "y", "timeout": "100ms"}),
                _node("c"),
            ],
            "edges": [_edge("g", "a"), _edge("a", "b"), _edge("late", "c", sourcePort="error")],
        },
        _early_late_repeated,
    ),
    "callback": Recorded(
        {
            "nodes": [
                _node("early", "t-flaky", inputs={"failures": 1}, callback={}, retryPolicy={"initialDelayMs": 1500}),
                _node("late", "t-value", callback={"timeout": "1h"}),
                _node("failed", "t-value", callback={}),
                _node("nobody", "t-value", callback={"timeout": "100ms"}),
                _node("b"),
            ],
            "edges": [
                _edge("late", "b", sourcePort="n"),
                _edge("failed", "b", sourcePort="error"),
                _edge("nobody", "b", sourcePort="error"),
            ],
        },
        _call_back,
    ),
    "event-continue-as-new": Recorded(
        {
            "nodes": [*noop_chain(20)["nodes"], _node("a", "event", inputs={"name": "x", "timeout": "2s"})],
            "edges": noop_chain(20)["edges"],
            "failurePolicy": "continue",
        },
        state={"historyLimit": 60},
    ),
    "fallback": Recorded(
        {
            "nodes": [_node("a", "t-fail", inputs={"action": "FALLBACK"}, fallback={"x": 1}), _node("b")],
            "edges": [_edge("a", "b")],
        }
    ),
    "undo": Recorded(
        {
            "nodes": [_node("a", "t-value", **_UNDO), _node("b", "t-value", **_UNDO), _node("c", "t-fail", **_UNDO)],
            "edges": [_edge("a", "c"), _edge("b", "c")],
            "finally": [_node("f")],
        }
    ),
    "undo-cancel": Recorded(
        {
            "nodes": [
                _node("a", **_UNDO),
                _node("b", "t-hang", compensation={"type": "t-flaky", "retryPolicy": {"initialDelayMs": 10}}),
            ],
            "edges": [_edge("a", "b")],
        },
        _cancel_twice,
    ),
    "undo-continue-as-new": Recorded(
        {
            "nodes": [*({**one, **_UNDO} for one in noop_chain(12)["nodes"]), _node("c", "t-fail")],
            "edges": [*noop_chain(12)["edges"], _edge("n11", "c")],
        },
        state={"historyLimit": 40},
    ),
    "undo-below": Recorded(
        {
            "nodes": [
                _node("a", "plan", plan={"nodes": [_node("x", "t-value", **_UNDO)]}),
                _node("b", "t-fail"),
            ],
            "edges": [_edge("a", "b")],
        },
    ),
    "undo-task": Recorded(
        {
            "nodes": [
                _node("a", compensation={"type": "t-needs", "inputs": {"x": 1}}),
                _node("b", "t-fail"),
            ],
            "edges": [_edge("a", "b")],
        },
        _retry_and_resolve_the_undo,
    ),
    "human": Recorded(
        {
            "nodes": [_node("a", "t-value", inputs={"x": 1}), _node("h", "human", task=_REVIEW), _node("b")],
            "edges": [_edge("a", "h"), _edge("h", "b")],
        },
        _decide_by_update,
    ),
    "questions": Recorded(
        {
            "nodes": [
                _node("a", "t-asks", inputs={"failures": 1}, retryPolicy={"initialDelayMs": 10}),
                _node("b", "t-asks"),
                _node("c"),
            ],
            "edges": [_edge("b", "c", sourcePort="error")],
        },
        _answer_questions,
    ),
    "questions-elsewhere": Recorded(
        {
            "nodes": [
                _node("asks", "of-theirs", **_wants("h-inquires")),
                _node("odd", "of-theirs", **_wants("h-inquires")),
            ],
            "edges": [_edge("asks", "odd")],
        },
        agent_that_asks,
        state={"limits": ["capability:h-inquires"]},
    ),
    "human-votes": Recorded(
        {
            "nodes": [_node("h", "human", task={"quorum": 2}), _node("g", "human"), _node("no")],
            "edges": [_edge("h", "g"), _edge("g", "no", sourcePort="rejected")],
        },
        _vote_by_signal,
    ),
    "human-time": Recorded(
        {
            "nodes": [
                _node("h", "human", task={"due": "900ms", "reminder": "300ms", "onExpiry": "skip"}),
                _node("g", "human", task={"due": "900ms", "escalation": {"after": "300ms", "to": "boss"}}),
                _node("handle"),
            ],
            "edges": [_edge("g", "handle", sourcePort="error")],
        }
    ),
    "human-cancel": Recorded({"nodes": [_node("h", "human")], "finally": [_node("f")]}, _cancel_when_asked),
    "escalate": Recorded(
        {
            "failurePolicy": "escalate",
            "nodes": [_node("a", "t-needs", inputs={"x": 1}, **_FLAKY), _node("b", "t-fail", inputs={}), _node("c")],
            "edges": [_edge("a", "c")],
        },
        _ask_about_failures,
    ),
    "invalid-condition": Recorded(
        {"nodes": [_node("a"), _node("b")], "edges": [_edge("a", "b", condition="outputs.missing > 1")]}
    ),
    "sub-plan": Recorded(
        {
            "nodes": [_node("a", "plan", plan={**_SUB, "outputs": {"x": "${nodes.i.outputs.x}"}}, inputs={"x": 1})],
            "outputs": {"x": "${nodes.a.outputs.x}"},
        },
        below="a",
    ),
    "sub-plan-failed": Recorded({"nodes": [_node("a", "plan", plan={"nodes": [_node("i", "t-fail")]})]}, below="a"),
    "sub-plan-cancel": Recorded(
        {"nodes": [_node("a", "plan", plan={"nodes": [_node("i", "t-hang")]})]}, _cancel_by_signal, below="a"
    ),
    "sub-plan-pause": Recorded(
        {
            "nodes": [
                _node("a", "plan", plan={"nodes": [_node("i", "sleep", inputs={"duration": "1s"})]}),
            ]
        },
        _pause_and_resume,
        below="a",
    ),
    "map": Recorded(
        {
            "nodes": [
                _node(
                    "a",
                    "map",
                    map={
                        "items": "${inputs.numbers}",
                        "toleratedFailures": 1,
                        "maxConcurrency": 2,
                        "body": {"type": "t-needs", "inputs": {"x": "${inputs.item}"}},
                    },
                )
            ]
        },
        inputs={"numbers": [2, 3, 1, 4]},
        below="a",
    ),
    "map-of-plans": Recorded({"nodes": [_node("a", "map", map={"items": [1, 2], "body": _SUB})]}, below="a"),
    "loop": Recorded(
        {
            "nodes": [
                _node(
                    "a",
                    "loop",
                    loop={
                        "body": {"type": "t-value", "inputs": {"n": "${inputs.iteration}"}},
                        "until": "outputs.n == 2",
                        "maxIterations": 5,
                    },
                )
            ]
        },
        below="a",
    ),
    "redrive": Recorded(
        {"nodes": [_node("a", "t-value", inputs={"x": 1}), _node("b", "t-value")], "edges": [_edge("a", "b")]},
        state={
            "keyRoot": "first",
            "seed": {
                "snapshot": {**_BEGINNING, "statuses": "FA", "edges": "1", "outputs": [[0, {"x": 1}]]},
                "raised": [],
                "facts": [["a", {"status": "SUCCESS"}, {"inputs": {"x": 1}, "outputs": {"x": 1}}]],
                "data": {"redriveOf": "first", "rootRunId": "first"},
            },
        },
    ),
    "budget": Recorded(
        {
            "nodes": [_node("a", "t-uses"), _node("b", "t-uses")],
            "edges": [_edge("a", "b")],
            "budget": {"tokens": 10, "wallTime": "30m"},
        },
        _raise_budget,
    ),
    "budget-of-the-day": Recorded(
        {"nodes": [_node("a")]},
        _resume_next_day,
        state={"over": {"measure": "tokens", "limit": 5, "spent": 5, "until": 4_102_444_800_000}},
    ),
    "undo-terminated": Recorded(
        {
            "nodes": [_node("a", compensation={"type": "noop"}), _node("b", compensation={"type": "noop"})],
            "edges": [_edge("a", "b")],
            "finally": [_node("f")],
        },
        state={
            "keyRoot": "first",
            "seed": {
                "snapshot": {
                    **_BEGINNING,
                    "statuses": "FJA",
                    "edges": "1",
                    "ending": "CANCELLED",
                    "reason": "it hangs",
                    "effects": [
                        [0, [{"generation": 0, "inputs": {}, "unsure": 1, "outputs": {}}]],
                        [1, [{"generation": 1, "inputs": {}, "unsure": 1}]],
                    ],
                },
                "raised": [],
                "facts": [["a", {"status": "SUCCESS"}, None], ["b", {"status": "CANCELLED"}, None]],
                "data": {"undoOf": "first", "rootRunId": "first"},
            },
        },
    ),
}


PLANS["circuit-breaker"] = Recorded(
    {"nodes": [_node("a", "t-flaky", inputs=_ENDPOINT, retryPolicy={"initialDelayMs": 2_000})]}, _break
)
PLANS["circuit-breaker-cancel"] = Recorded(
    {"nodes": [_node("a", "t-flaky", inputs=_ENDPOINT, retryPolicy={"initialDelayMs": 2_000})]},
    _break_and_cancel,
)
PLANS["memory"] = Recorded({"nodes": [_node("a", "t-value", name="Remember", memory={"episodes": 1})]})
_SIGNS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_API_KEYS = Keyring({key_id(_SIGNS.public_key().public_bytes_raw()): _SIGNS.public_key()}, [_SIGNS])
_LATER = 10**15


async def _prove_who_decides(started: Started) -> None:
    """Claim a name, which is refused; decide by what the API signs, and by an approval token."""
    handle, run_id = started.handle, started.run_id
    first = (await _tasks(started))[0]
    claim = {"taskId": first, "operator": "ann", "action": "approve"}
    await handle.signal("complete_human_task", claim)
    with contextlib.suppress(WorkflowUpdateFailedError):
        await handle.execute_update("skip_node", {"nodeId": "a", "operator": "ann"})
    await handle.execute_update("pause", {"operator": "ann"})
    await handle.execute_update("resume", {})
    signed = signed_request(_API_KEYS, TENANT, run_id, "complete_human_task", claim, _LATER)
    await handle.signal("complete_human_task", signed)
    while not (task := next(iter((await handle.query("tasks"))["tasks"]), None)) or task["taskId"] == first:
        await asyncio.sleep(0.05)
    approval = Approval(TENANT, run_id, task["taskId"], task["digest"], "ben", ("ops",), _LATER)
    token = {"action": "reject", "approvalToken": approval_token(_API_KEYS, approval)}
    await handle.signal("complete_human_task", token)


PLANS["authority"] = Recorded(
    {
        "nodes": [_node("a", "human"), _node("b", "human", task={"candidateGroup": "ops"}), _node("c")],
        "edges": [_edge("a", "b"), _edge("b", "c", sourcePort="rejected")],
    },
    _prove_who_decides,
    state={"authority": run_authority(_API_KEYS, True)},
)
PLANS["memory-elsewhere"] = Recorded(
    {
        "nodes": [
            _node("a", "agent", **_wants("h-remembers"), memory={"episodes": 2}),
            _node("b", "agent", **_wants("h-remembers"), memory={"session": {"repository": "r"}}),
        ],
        "edges": [_edge("a", "b")],
    },
    agent_that_remembers,
    state={"limits": ["capability:h-remembers"]},
)
PLANS["segments"] = Recorded(
    {
        "execution": "local",
        "failurePolicy": "continue",
        "nodes": [
            _node("a"),
            _node("f", "t-flaky", retryPolicy={"initialDelayMs": 10, "maxDelayMs": 20}),
            _node("after"),
            _node("b", inputs={"x": "${nodes.a.outputs}"}),
            _node("bad", "t-flaky", inputs={"type": "TOOL_ERROR"}),
            _node("handler", "t-value"),
            _node("s", "sleep", inputs={"duration": "100ms"}),
            _node("last"),
        ],
        "edges": [
            _edge("a", "f"),
            _edge("f", "after"),
            _edge("a", "b"),
            _edge("a", "bad"),
            _edge("bad", "handler", sourcePort="error", mapping={"type": "kind"}),
            _edge("b", "s"),
            _edge("s", "last"),
        ],
    }
)


@dataclass(frozen=True)
class Scheduled:
    """A plan that a schedule starts, whether the scheduled workflow is cancelled, and the schedule's inputs."""

    plan: dict[str, Any]
    cancel: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)


SCHEDULED: dict[str, Scheduled] = {
    "scheduled": Scheduled({"nodes": [_node("a")]}),
    "scheduled-cancel": Scheduled({"nodes": [_node("a", "t-hang")]}, cancel=True),
    "scheduled-failed": Scheduled({"nodes": [_node("a", "t-fail")]}),
    "scheduled-invalid": Scheduled(
        {"nodes": [_node("a")], "inputs": {"properties": {"n": {"type": "integer"}}}}, inputs={"n": "x"}
    ),
}
"""What is kept of ``ScheduledRun``; the runs that it starts are like all others."""
