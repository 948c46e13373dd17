"""Node types for tests: they fail, hang, answer rubbish or kill their process, and leave a mark of every effect."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from dalang.nodes import AskPerson, NetworkError, NodeContext, NodeFailure, ToolError, agent, node, registry

calls: Counter[str] = Counter()
"""How often each idempotency key ran in this process."""


def node_types() -> list[str]:
    """Return the names of all registered types."""
    return list(registry.node_types)


@node("t-flaky", endpoint=lambda inputs: inputs.get("endpoint"))
async def flaky(
    ctx: NodeContext,
    failures: int = 2,
    type: str = "NETWORK_ERROR",
    endpoint: str | None = None,
    retry_after: float | None = None,
) -> dict[str, Any]:
    """Fail ``failures`` times, then succeed; without an ``endpoint`` there is no circuit breaker."""
    calls[ctx.idempotency_key] += 1
    if ctx.attempt <= failures:
        raise NodeFailure(f"attempt {ctx.attempt}", type=type, retry_after=retry_after)
    return {"attempt": ctx.attempt, "key": ctx.idempotency_key}


@node("t-fail")
async def fail(ctx: NodeContext, type: str = "TOOL_ERROR", action: str | None = None) -> None:
    """Fail for good."""
    raise NodeFailure("it failed", type=type, retryable=False, suggested_action=action, details={"why": "asked to"})


@node("t-needs")
async def needs(ctx: NodeContext, x: int) -> dict[str, Any]:
    """Fail for good unless x is more than 1."""
    if x <= 1:
        raise ToolError("x is too small")
    return {"x": x, "key": ctx.idempotency_key}


@node("t-fail-after")
async def fail_after(ctx: NodeContext, path: str) -> None:
    """Fail for good once a file is there."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    raise ToolError("it failed late")


@node("t-raise")
def raise_plain(ctx: NodeContext) -> None:
    """Raise an exception nobody classified."""
    raise RuntimeError("surprise \ud800 \x00!")


@node("t-exit")
async def leave(ctx: NodeContext) -> None:
    """Ask the process to end."""
    raise SystemExit(3)


@node("t-exit-thread")
def leave_from_thread(ctx: NodeContext) -> None:
    """Ask the process to end, from a thread."""
    sys.exit(3)


@node("t-cancel-itself")
async def cancel_itself(ctx: NodeContext) -> None:
    """Raise what a cancellation raises."""
    raise asyncio.CancelledError


@node("t-not-json")
async def not_json(ctx: NodeContext, what: str = "object") -> Any:
    """Return what is not JSON."""
    return {
        "object": object(),
        "nan": {"x": float("nan")},
        "surrogate": {"x": "\ud800"},
        "nul": {"x": "a\x00b"},
        "big": {"x": 2**60},
        "keys": {1: 2},
    }[what]


@node("t-value")
async def value(ctx: NodeContext, **values: Any) -> dict[str, Any]:
    """Return its inputs."""
    return values


@node("t-key")
async def give_key(ctx: NodeContext, x: int) -> str:
    """Return the idempotency key, and use ten tokens."""
    ctx.usage(tokens=10)
    return ctx.idempotency_key


@node("t-size")
async def size(ctx: NodeContext, kilobytes: int = 200) -> dict[str, Any]:
    """Return a text of so many kilobytes."""
    return {"text": "x" * kilobytes * 1024}


@node("t-hang")
async def hang(ctx: NodeContext) -> None:
    """Wait for ever, stoppable."""
    await asyncio.sleep(3600)


@node("t-hang-thread")
def hang_thread(ctx: NodeContext) -> dict[str, Any]:
    """Wait in a thread until it is told to stop."""
    while not ctx.stopping:
        time.sleep(0.02)
    return {"stopped": True}


@node("t-block")
async def block(ctx: NodeContext, seconds: float = 3) -> dict[str, Any]:
    """Block the event loop it runs on."""
    time.sleep(seconds)
    return {}


@node("t-wait-file")
async def wait_file(ctx: NodeContext, path: str) -> dict[str, Any]:
    """Wait until a file is there."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    return {}


@node("t-effect")
async def effect(ctx: NodeContext, folder: str, seconds: float = 0) -> dict[str, Any]:
    """Have an effect once per idempotency key, as a careful service would, and count how often it was asked."""
    name = ctx.idempotency_key.replace(":", "_").replace("/", "_")
    with (Path(folder) / f"{name}.asked").open("a") as log:
        log.write(f"{ctx.attempt}\n")
    await asyncio.sleep(seconds)
    try:
        (Path(folder) / f"{name}.done").open("x").close()
    except FileExistsError:
        return {"again": True}
    return {"again": False}


@node("t-kill")
def kill(ctx: NodeContext, folder: str, times: int = 1) -> dict[str, Any]:
    """Kill the process it runs in, so many times in all."""
    for number in range(times):
        try:
            (Path(folder) / f"killed-{number}").open("x").close()
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return {"survived": True}


@node("t-context")
def context(ctx: NodeContext) -> dict[str, Any]:
    """Tell what the context holds."""
    return {
        "nodeId": ctx.node_id,
        "name": ctx.name,
        "run": dict(ctx.run),
        "metadata": dict(ctx.metadata),
        "maxAttempts": ctx.max_attempts,
        "thread": threading.current_thread().name.split("_")[0],
    }


@node("t-steps")
async def steps(
    ctx: NodeContext, path: str, count: int = 5, fail_at: int = -1, wait_at: int = -1, kilobytes: int = 0
) -> dict[str, Any]:
    """Do numbered steps, each once in a line of ``path``, with a checkpoint after each.

    Attempt 1 fails before step ``fail_at``; step ``wait_at`` waits until there is a file ``path``.gate.
    """
    begun = ctx.restored["done"] if ctx.restored else 0
    for step in range(begun, count):
        if step == fail_at and ctx.attempt == 1:
            raise NodeFailure("a step failed", type="NETWORK_ERROR")
        while step == wait_at and not Path(f"{path}.gate").exists():
            await asyncio.sleep(0.02)
        with Path(path).open("a") as log:
            log.write(f"{step} {os.getpid()}\n")
        await ctx.checkpoint({"done": step + 1, "pad": "x" * kilobytes * 1024})
    return {"begun": begun, "attempt": ctx.attempt, "key": ctx.idempotency_key}


@node("t-steps-thread")
def steps_in_thread(ctx: NodeContext, path: str, count: int = 5, fail_at: int = -1) -> dict[str, Any]:
    """The same in a thread, without waiting for anything."""
    begun = ctx.restored["done"] if ctx.restored else 0
    for step in range(begun, count):
        if step == fail_at and ctx.attempt == 1:
            raise NodeFailure("a step failed", type="NETWORK_ERROR")
        with Path(path).open("a") as log:
            log.write(f"{step} {os.getpid()}\n")
        ctx.checkpoint({"done": step + 1})
    return {"begun": begun, "attempt": ctx.attempt}


@node("t-deaf")
def deaf(ctx: NodeContext, path: str) -> dict[str, Any]:
    """Work in a thread that never looks whether it should stop, until there is a file ``path``."""
    with Path(f"{path}.log").open("a") as log:
        log.write(f"begin {ctx.restored}\n")
    ctx.checkpoint("begun")
    while not Path(path).exists():
        time.sleep(0.02)
    with Path(f"{path}.log").open("a") as log:
        log.write("end\n")
    return {"restored": ctx.restored}


@node("t-saves")
async def saves(ctx: NodeContext, failing: bool = False) -> dict[str, Any]:
    """Hang at its first start and save its work when it is stopped, or fail over and over with a checkpoint."""
    if ctx.restored is not None and not (failing and ctx.attempt < 3):
        return {"restored": ctx.restored, "attempt": ctx.attempt, "key": ctx.idempotency_key}
    if failing:
        ctx.checkpoint({"failed": ctx.attempt})
        raise NodeFailure("not yet", type="NETWORK_ERROR")
    try:
        await asyncio.sleep(3600)
    finally:
        ctx.checkpoint({"saved": True})
    return {}


@node("t-bad-checkpoint")
async def bad_checkpoint(ctx: NodeContext) -> None:
    """Leave what is not JSON."""
    ctx.checkpoint({"list": [1, float("nan")]})


@agent("t-coder", capabilities=["t-coding", "t-testing"])
async def coder(ctx: NodeContext) -> dict[str, Any]:
    """An agent with two capabilities."""
    return {"by": "t-coder"}


@agent("t-keyed", capabilities=["t-keyed"])
async def keyed(ctx: NodeContext, key: str) -> dict[str, Any]:
    """An agent that is given a secret: it tells how long it is."""
    return {"length": len(key), "key": key}


@agent("t-tester", capabilities=["t-testing"])
async def tester(ctx: NodeContext) -> dict[str, Any]:
    """An agent with one capability."""
    return {"by": "t-tester"}


@agent("t-broken", capabilities=["t-broken"])
async def broken(ctx: NodeContext) -> dict[str, Any]:
    """An agent that fails."""
    raise ToolError("the agent gave up")


@node("t-undo")
async def undo(
    ctx: NodeContext, folder: str, gate: str | None = None, failures: int = 0, padding: str = ""
) -> dict[str, Any]:
    """Write down which key was undone, once ``gate`` is there, and tell what the undo was told."""
    assert ctx.undoes is not None
    with (Path(folder) / "asked").open("a") as log:
        log.write(f"{ctx.idempotency_key}\n")
    if ctx.attempt <= failures:
        raise NodeFailure(f"attempt {ctx.attempt}", type="NETWORK_ERROR")
    while gate is not None and not Path(gate).exists():
        await asyncio.sleep(0.02)
    with (Path(folder) / "undone").open("a") as log:
        log.write(f"{ctx.idempotency_key} {ctx.attempt}\n")
    told = ctx.undoes
    return {
        "undoes": {
            "key": told.idempotency_key,
            "status": told.status,
            "inputs": dict(told.inputs),
            "outputs": dict(told.outputs),
            "error": dict(told.error),
        }
    }


@node("t-late")
async def late(ctx: NodeContext, folder: str, seconds: float) -> None:
    """Have an effect late, whatever tells it to stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    (Path(folder) / "effect").touch()


@node("t-late-thread")
def late_thread(ctx: NodeContext, folder: str, seconds: float) -> None:
    """The same in a thread; it says in which process."""
    begun = Path(folder) / "begun"
    begun.with_suffix(".new").write_text(str(os.getpid()))
    begun.with_suffix(".new").rename(begun)
    time.sleep(seconds)
    (Path(folder) / "effect").touch()


@node("t-late-block")
async def late_block(ctx: NodeContext, folder: str, seconds: float) -> None:
    """The same on the handlers' loop, which it blocks."""
    time.sleep(seconds)
    (Path(folder) / "effect").touch()


@node("t-judge")
async def judge(ctx: NodeContext, words: int = 0) -> dict[str, Any]:
    """Want ten words."""
    verdict = "pass" if words >= 10 else "replan"
    return {"verdict": verdict, "reason": f"{words} words", "words": words}


@agent("t-planner", capabilities=["planning"])
async def planner(ctx: NodeContext, **inputs: Any) -> dict[str, Any]:
    """Answer as its inputs say: well, badly first, not at all; each answer tells what it was asked."""
    way, cause = inputs.get("way", "well"), inputs["causes"][0]
    if way == "fail" or (way == "fail-once" and ctx.attempt == 1):
        raise NodeFailure("no idea", type="NETWORK_ERROR", retryable=way == "fail-once")
    if way == "hang":
        await asyncio.sleep(3600)
    if way == "steal":
        return {
            "patch": {"addNodes": [{"nodeId": "thief", "type": "t-value", "inputs": {"k": "secret://of-the-shop"}}]}
        }
    if way == "nonsense" or (way == "badly-first" and not inputs["problems"]):
        return {"patch": {"removeNodes": ["nobody"]}} if way == "badly-first" else {"answer": 42}
    if cause["kind"] == "failure":
        node = next(one for one in inputs["plan"]["nodes"] if one["nodeId"] == cause["nodeId"])
        return {"patch": {"replaceNodes": [{**node, "inputs": {"x": 5}}]}, "reason": "x was too small"}
    number = inputs["revision"]
    last, more = cause["nodeId"], f"write{number}"
    follow = [edge for edge in inputs["plan"]["edges"] if edge["sourceNodeId"] == last]
    patch = {
        "removeEdges": [edge["edgeId"] for edge in follow],
        "addNodes": [
            {"nodeId": more, "type": "t-value", "inputs": {"words": cause["outputs"]["words"] + 5}},
            {"nodeId": f"judge{number}", "type": "t-judge", "evaluator": True},
        ],
        "addEdges": [
            {"sourceNodeId": last, "targetNodeId": more, "mapping": {"reason": "because"}},
            {"sourceNodeId": more, "targetNodeId": f"judge{number}"},
            *({"sourceNodeId": f"judge{number}", "targetNodeId": edge["targetNodeId"]} for edge in follow),
        ],
    }
    return {"patch": patch, "reason": f"{inputs['statuses'][last]} with {cause['outputs']['reason']}"}


@node("t-fixable")
async def fixable(ctx: NodeContext, x: int) -> dict[str, Any]:
    """Fail for good unless x is more than 1, and suggest that the plan be fixed."""
    if x <= 1:
        raise ToolError("x is too small", suggested_action="AUTO_FIX")
    return {"x": x, "key": ctx.idempotency_key}


@node("t-uses")
async def uses(ctx: NodeContext, tokens: int = 10, fails: int = 0, hangs: bool = False) -> dict[str, Any]:
    """Report a use; fail the first attempts, or hang until it is stopped."""
    ctx.usage(tokens=tokens, cost=tokens / 1000)
    if ctx.attempt <= fails:
        raise NetworkError("away")
    if hangs:
        await asyncio.sleep(3600)
    return {}


@node("t-asks")
async def asks(ctx: NodeContext, failures: int = 0, form: Any = None) -> dict[str, Any]:
    """Fail ``failures`` times, then ask which region, then tell what was answered and what was left before."""
    calls[ctx.idempotency_key] += 1
    if ctx.answer is None and ctx.attempt <= failures:
        raise NetworkError(f"attempt {ctx.attempt}")
    if ctx.answer is None:
        ctx.usage(tokens=3)
        ctx.checkpoint({"asked": ctx.attempt})
        known = {"type": "object", "properties": {"region": {"type": "string"}}, "required": ["region"]}
        raise AskPerson("Which region?", form=known if form is None else form, context={"try": ctx.attempt})
    return {
        "region": ctx.answer.values["region"],
        "by": ctx.answer.by,
        "attempt": ctx.attempt,
        "left": ctx.restored,
        "key": ctx.idempotency_key,
    }
