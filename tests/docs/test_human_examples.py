"""The examples that ask people, each taken every way their comments say."""

from __future__ import annotations

from typing import Any

import pytest

import dalang.demo  # noqa: F401 - registers the handlers that the examples need
from dalang.loading import load_plan
from dalang.validation import with_input_defaults
from tests.docs.test_examples import EXAMPLES, running
from tests.engine.kit import Engine, Started

__all__ = ["running"]


async def begun(running: Engine, name: str) -> Started:
    plan = load_plan((EXAMPLES / name).read_bytes(), name=name).require()
    return await running.start_plan(plan, dict(with_input_defaults(plan, {})))


async def event(started: Started, kind: str, node: str) -> dict[str, Any]:
    """Wait for an event of a node; return its data."""
    await started.until(kind, node)
    stored = (await started.stored())["events"]
    return next(dict(one["data"]) for one in reversed(stored) if (one["type"], one["node_id"]) == (kind, node))


async def decide(started: Started, node: str, action: str, operator: str, **more: Any) -> None:
    """Decide the task of a node as the ``temporal`` CLI would."""
    task = (await event(started, "HITL_TASK_CREATED", node))["task"]
    request = {"taskId": task, "action": action, "operator": operator, **more}
    await started.handle.execute_update("complete_human_task", request)


@pytest.mark.parametrize(
    ("action", "more", "text", "last"),
    [
        ("approve", {"values": {"channel": "blog"}}, "One dalang moves every puppet.", "publish"),
        ("edit", {"values": {"channel": "mail"}, "outputs": {"text": "Better"}}, "Better", "publish"),
        ("reject", {"notes": "not before Friday"}, "One dalang moves every puppet.", "shelve"),
    ],
)
async def test_the_approval_example(running: Engine, action: str, more: Any, text: str, last: str) -> None:
    """Approved, edited or put on the shelf."""
    started = await begun(running, "human-approval.yaml")
    await decide(started, "review", action, "kim", **more)
    ended = await started.end()
    assert ended["run"]["status"] == "COMPLETED"
    assert ended["result"]["outputs"] == {"decision": action, "by": "kim", "text": text}
    assert ended["nodes"][last]["status"] == "SUCCESS"
    assert await running.chain_problem(started.run_id) is None


async def test_the_escalation_example(running: Engine) -> None:
    """The failure asks and is tried again; when no cashier answers two managers decide."""
    started = await begun(running, "human-escalation.yaml")
    await decide(started, "charge", "retry", "kim", inputs={"card": "4242"})
    assert (await event(started, "HITL_TASK_ESCALATED", "payout"))["group"] == "managers"
    for name in ("ann", "ben"):
        await decide(started, "payout", "approve", name, groups=["managers"])
    ended = await started.end()
    assert ended["result"]["outputs"] == {"receipt": "paid 12A", "lastBy": "ben"}
