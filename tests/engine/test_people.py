"""People on the real engine: plain signals and updates, time, continue-as-new, and everything that is sent wrongly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import WorkflowUpdateFailedError

from dalang.store.engine import transaction
from tests.engine.kit import TENANT, Engine, Started, body_of, node_events
from tests.engine.test_redrive import redrive
from tests.harness import PATIENCE


def _plan(**task: Any) -> dict[str, Any]:
    return {
        "nodes": [
            {"nodeId": "build", "type": "t-value", "inputs": {"version": "1.2"}},
            {"nodeId": "review", "type": "human", "task": {"title": "Deploy ${nodes.build.outputs.version}?", **task}},
            {"nodeId": "deploy", "type": "t-value"},
        ],
        "edges": [
            {"sourceNodeId": "build", "targetNodeId": "review"},
            {"sourceNodeId": "review", "targetNodeId": "deploy"},
        ],
    }


async def _asked(engine: Engine, plan: dict[str, Any], **state: Any) -> tuple[Started, dict[str, Any]]:
    """Start a plan and wait for its first task."""
    started = await engine.start(plan, **state)
    await started.until("HITL_TASK_CREATED")
    return started, (await _tasks(started))[0]


async def _tasks(started: Started) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await started.handle.query("tasks"))["tasks"]
    return found


async def _refused(started: Started, update: str, payload: Any) -> tuple[str, str]:
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await started.handle.execute_update(update, payload)
    cause: Any = refusal.value.cause
    return cause.type, str(cause)


async def test_an_update_decides(shared_engine: Engine) -> None:
    """The run awaits people, the update answers with task and run, the outputs go on; the chain of events holds."""
    started, task = await _asked(shared_engine, _plan())
    await started.until("PLAN_AWAITING_HITL")
    stored = await started.stored()
    assert (stored["run"]["status"], stored["nodes"]["review"]["status"]) == ("AWAITING_HITL", "AWAITING_HITL")
    assert stored["nodes"]["review"]["started_at"] is not None
    assert (task["title"], task["actions"], task["taskStatus"]) == (
        "Deploy 1.2?",
        ["approve", "reject", "edit"],
        "PENDING",
    )
    answer = await started.handle.execute_update(
        "complete_human_task",
        {"taskId": task["taskId"], "action": "edit", "operator": "ann", "digest": task["digest"],
         "outputs": {"version": "1.3"}, "notes": "skip 1.2", "decisionId": "d1"},
    )  # fmt: skip
    assert answer["taskId"] == task["taskId"]
    assert (answer["taskStatus"], answer["status"]) == ("COMPLETED", "RUNNING")
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    deployed = body_of(end, "NODE_COMPLETED", "deploy")["outputs"]
    assert deployed.items() >= {"version": "1.3", "decision": "edit", "decidedBy": "ann", "notes": "skip 1.2"}.items()
    assert node_events(end, "review") == [
        "NODE_STARTED",
        "HITL_TASK_CREATED",
        "HITL_TASK_COMPLETED",
        "NODE_COMPLETED",
    ]
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_signals_decide(shared_engine: Engine) -> None:
    """``temporal workflow signal`` is enough for claim, delegation, release and decision."""
    started, task = await _asked(shared_engine, _plan())
    handle, who = started.handle, {"taskId": task["taskId"]}
    await handle.signal("claim_human_task", {**who, "operator": "ann"})
    await handle.signal("release_human_task", {**who, "operator": "ann"})
    await handle.signal("delegate_human_task", {**who, "operator": "ann", "to": "bob"})
    await handle.signal("complete_human_task", {**who, "operator": "bob", "action": "approve"})
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert [kind for kind in node_events(end, "review") if kind.startswith("HITL")] == [
        "HITL_TASK_CREATED",
        "HITL_TASK_CLAIMED",
        "HITL_TASK_RELEASED",
        "HITL_TASK_DELEGATED",
        "HITL_TASK_COMPLETED",
    ]


async def test_what_is_wrong_is_refused(shared_engine: Engine) -> None:
    """Malformed and incomplete requests are INVALID_REQUEST, those that do not fit what is are WRONG_STATE."""
    form = {"properties": {"n": {"type": "integer"}}, "required": ["n"]}
    started, task = await _asked(shared_engine, _plan(form=form, assignee="bob"))
    good = {"taskId": task["taskId"], "action": "approve", "operator": "bob", "values": {"n": 1}}
    table: list[tuple[str, Any, str, str]] = [
        ("complete_human_task", None, "INVALID_REQUEST", "taskId is missing"),
        ("complete_human_task", [good], "INVALID_REQUEST", "not a list"),
        ("complete_human_task", {**good, "taskId": 5}, "INVALID_REQUEST", "taskId is a text"),
        ("complete_human_task", {**good, "operator": None}, "INVALID_REQUEST", "operator is missing"),
        ("complete_human_task", {**good, "operator": ""}, "INVALID_REQUEST", "operator is missing"),
        ("complete_human_task", {**good, "action": "dance"}, "INVALID_REQUEST", "approve, reject, edit"),
        ("complete_human_task", {**good, "nots": "x"}, "INVALID_REQUEST", "unknown field 'nots'"),
        ("complete_human_task", {**good, "groups": "g"}, "INVALID_REQUEST", "groups is a list"),
        ("complete_human_task", {**good, "groups": [1]}, "INVALID_REQUEST", "groups is a text"),
        ("complete_human_task", {**good, "values": {"n": "\x00"}}, "INVALID_REQUEST", "U+0000"),
        ("complete_human_task", {**good, "values": {"n": "x"}}, "INVALID_REQUEST", "of type integer"),
        ("complete_human_task", {**good, "values": None}, "INVALID_REQUEST", "`n` is missing"),
        ("complete_human_task", {**good, "values": {"n": 1, "m": "y" * 300_000}}, "INVALID_REQUEST", "more than"),
        ("complete_human_task", {**good, "notes": "x" * 2_001}, "INVALID_REQUEST", "characters"),
        ("complete_human_task", {**good, "outputs": {}}, "INVALID_REQUEST", "takes no outputs"),
        ("complete_human_task", {**good, "digest": "0" * 64}, "WRONG_STATE", "not what was shown"),
        ("complete_human_task", {**good, "operator": "ann"}, "WRONG_STATE", "assigned to bob"),
        ("complete_human_task", {**good, "taskId": "nothing"}, "WRONG_STATE", "no open task"),
        ("claim_human_task", {"taskId": task["taskId"], "operator": "ann"}, "WRONG_STATE", "assigned to bob"),
        ("release_human_task", {"taskId": task["taskId"], "operator": "bob"}, "WRONG_STATE", "claimed by nobody"),
        ("delegate_human_task", {"taskId": task["taskId"], "operator": "bob"}, "INVALID_REQUEST", "is missing"),
        ("delegate_human_task", {**good, "to": "x"}, "INVALID_REQUEST", "unknown field"),
    ]
    for update, payload, kind, words in table:
        refused = await _refused(started, update, payload)
        assert refused[0] == kind, (update, payload, refused)
        assert words in refused[1], (update, payload, refused)
    await started.handle.execute_update("complete_human_task", good)
    assert (await started.end())["run"]["status"] == "COMPLETED"
    assert (await _tasks(started)) == []


async def test_bad_signals_are_recorded_and_wedge_nothing(shared_engine: Engine) -> None:
    """Missing and surplus arguments, nonsense and decisions that come too late leave a REQUEST_REJECTED each."""
    started, task = await _asked(shared_engine, _plan())
    handle = started.handle
    names = ("complete_human_task", "claim_human_task", "release_human_task", "delegate_human_task")
    for name in names:
        await handle.signal(name)
        await handle.signal(name, args=[{}, {}])
        await handle.signal(name, "nonsense")
        await handle.signal(name, {"taskId": "nothing", "operator": "ann", **_extra(name)})
    decision = {"taskId": task["taskId"], "operator": "ann", "action": "approve"}
    await handle.signal("complete_human_task", decision)
    await handle.signal("complete_human_task", {**decision, "operator": "bob"})
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    rejected = [row["data"] for row in end["events"] if row["type"] == "REQUEST_REJECTED"]
    assert len(rejected) in (4 * len(names), 4 * len(names) + 1)  # the last may have come after the end


def _extra(name: str) -> dict[str, str]:
    return {"complete_human_task": {"action": "approve"}, "delegate_human_task": {"to": "bob"}}.get(name, {})


async def test_time_reminds_escalates_and_expires(shared_engine: Engine) -> None:
    """Due dates are durable timers; at expiry the declared thing follows."""
    task = {"due": "900ms", "reminder": "300ms", "escalation": {"after": "300ms", "to": "boss"}, "onExpiry": "skip"}
    end = await (await shared_engine.start(_plan(**task))).end()
    assert [kind for kind in node_events(end, "review") if kind != "NODE_STARTED"] == [
        "HITL_TASK_CREATED",
        "HITL_TASK_ESCALATED",
        "HITL_TASK_REMINDED",
        "HITL_TASK_EXPIRED",
        "NODE_SKIPPED",
    ]
    assert (end["nodes"]["review"]["skip_reason"], end["nodes"]["deploy"]["status"]) == ("expired", "SKIPPED")
    assert end["run"]["status"] == "COMPLETED"


async def test_open_tasks_and_decisions_survive_continue_as_new(shared_engine: Engine) -> None:
    """A decisionId that comes again in a later execution is answered as the first time, and the task is still open."""
    plan = _plan(quorum=2)
    plan["nodes"] += [{"nodeId": f"n{i}", "type": "noop"} for i in range(25)]
    plan["edges"] += [{"sourceNodeId": f"n{i}", "targetNodeId": f"n{i + 1}"} for i in range(24)]
    started, task = await _asked(shared_engine, plan, historyLimit=60)
    vote = {"taskId": task["taskId"], "action": "approve", "operator": "ann", "decisionId": "v1"}
    first = await started.handle.execute_update("complete_human_task", vote)
    assert first["taskStatus"] == "PENDING"
    await started.until("NODE_COMPLETED", "n24")
    await started.until("PLAN_AWAITING_HITL")
    client = shared_engine.client
    async with asyncio.timeout(PATIENCE):
        while len([one async for one in client.list_workflows(f"WorkflowId = '{started.handle.id}'")]) < 2:
            await asyncio.sleep(0.1)
    latest = client.get_workflow_handle(started.handle.id)
    assert (await latest.query("tasks"))["tasks"][0]["approvedBy"] == ["ann"]
    again = await latest.execute_update("complete_human_task", vote)
    assert again["taskStatus"] == "PENDING"
    answer = await latest.execute_update("complete_human_task", {**vote, "operator": "bob", "decisionId": "v2"})
    assert answer["taskStatus"] == "COMPLETED"
    end = await started.end()
    assert node_events(end, "review").count("HITL_TASK_VOTED") == 1
    assert end["run"]["status"] == "COMPLETED"


async def test_a_handlers_failure_asks_a_person(shared_engine: Engine) -> None:
    """HUMAN_REVIEW raises a task with error and inputs; what does not depend on the node goes on meanwhile."""
    plan = {
        "nodes": [
            {"nodeId": "a", "type": "t-fail", "inputs": {"action": "HUMAN_REVIEW", "x": 1}},
            {"nodeId": "b", "type": "t-value"},
            {"nodeId": "beside", "type": "t-value"},
        ],
        "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}],
    }
    started, task = await _asked(shared_engine, plan)
    await started.until("PLAN_AWAITING_HITL")
    assert (await started.stored())["nodes"]["beside"]["status"] == "SUCCESS"
    assert (task["kind"], task["actions"]) == ("failure", ["retry", "skip", "abort"])
    payload = {"taskId": task["taskId"], "action": "skip", "operator": "ann", "outputs": {"y": 2}}
    await started.handle.execute_update("complete_human_task", payload)
    end = await started.end()
    assert body_of(end, "NODE_COMPLETED", "b")["outputs"].items() >= {"y": 2}.items()
    assert body_of(end, "HITL_TASK_CREATED", "a")["context"] == {"action": "HUMAN_REVIEW", "x": 1}
    assert end["run"]["status"] == "COMPLETED"


@pytest.mark.parametrize("action", ["retry", "abort"])
async def test_escalate_leads_to_a_retry_or_to_the_end(shared_engine: Engine, action: str) -> None:
    """Retried with other inputs the run completes; aborted it fails with the error that was asked about."""
    plan = {
        "failurePolicy": "escalate",
        "nodes": [{"nodeId": "a", "type": "t-needs", "inputs": {"x": 1}, "retryPolicy": {"initialDelayMs": 10}}],
    }
    started, task = await _asked(shared_engine, plan)
    more = {"inputs": {"x": 2}} if action == "retry" else {}
    payload = {"taskId": task["taskId"], "action": action, "operator": "ann", **more}
    await started.handle.execute_update("complete_human_task", payload)
    end = await started.end()
    assert end["run"]["status"] == ("COMPLETED" if action == "retry" else "FAILED")
    if action == "abort":
        assert end["run"]["error"] == body_of(end, "HITL_TASK_CREATED", "a")["error"]


async def test_the_end_of_a_run_cancels_its_tasks(shared_engine: Engine) -> None:
    """A cancel of a run that awaits people ends it; its details named whom it waited for."""
    started, _ = await _asked(shared_engine, _plan(candidateGroup="ops"))
    await started.until("PLAN_AWAITING_HITL")
    described = await started.handle.query("__temporal_workflow_metadata")
    assert "asked of `ops`" in str(described)
    await started.handle.execute_update("cancel", {"reason": "no use"})
    end = await started.end()
    kinds = [row["type"] for row in end["events"]]
    assert kinds.index("HITL_TASK_CANCELLED") < kinds.index("PLAN_CANCELLED")
    assert end["run"]["status"] == "CANCELLED"


async def test_a_large_context_is_shown_whole(shared_engine: Engine) -> None:
    """What a person is shown is in the event itself, however large: no worker has stored it."""
    plan = _plan()
    plan["nodes"][0]["inputs"]["text"] = "x" * 20_000
    started, task = await _asked(shared_engine, plan)
    stored = await started.stored()
    assert body_of(stored, "HITL_TASK_CREATED", "review")["context"]["text"] == "x" * 20_000
    await started.handle.signal(
        "complete_human_task", {"taskId": task["taskId"], "action": "approve", "operator": "ann"}
    )
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_the_status_is_a_search_attribute(shared_engine: Engine) -> None:
    """What an update changes is found as well: AWAITING_HITL, PAUSED by an update, and the end."""
    started, _ = await _asked(shared_engine, _plan())
    await started.until("PLAN_AWAITING_HITL")
    await started.handle.execute_update("pause", {})
    query = f"WorkflowId = '{started.handle.id}' AND DalangRunStatus = 'PAUSED'"
    async with asyncio.timeout(PATIENCE):
        while not [one async for one in shared_engine.client.list_workflows(query)]:
            await asyncio.sleep(0.1)
    await started.handle.execute_update("cancel", {})
    assert (await started.end())["run"]["status"] == "CANCELLED"


async def _approve(started: Started, operator: str) -> None:
    """Decide the only open task, as soon as there is one."""
    async with asyncio.timeout(PATIENCE):
        while not (tasks := await _tasks(started)):
            await asyncio.sleep(0.05)
    (task,) = tasks
    payload = {"taskId": task["taskId"], "action": "approve", "operator": operator}
    await started.handle.execute_update("complete_human_task", payload)


async def test_four_eyes_see_through_a_redrive(shared_engine: Engine) -> None:
    """Who approved a node that was kept, and who started the first run, cannot approve what comes of it now."""
    plan = {
        "nodes": [
            {"nodeId": "first", "type": "human"},
            {"nodeId": "c", "type": "t-needs", "inputs": {"x": 1}, "retryPolicy": {"maxAttempts": 1}},
            {"nodeId": "h", "type": "human", "task": {"fourEyes": True}},
        ],
        "edges": [{"sourceNodeId": "first", "targetNodeId": "c", "mapping": {}},
                  {"sourceNodeId": "c", "targetNodeId": "h"}],
    }  # fmt: skip
    started = await shared_engine.start(plan)
    await _approve(started, "eve")
    assert (await started.end())["run"]["status"] == "FAILED"
    again = await redrive(shared_engine, started.run_id, c={"x": 1})
    await again.end()
    new = await redrive(shared_engine, again.run_id, c={"x": 2})
    await new.until("HITL_TASK_CREATED")
    assert body_of(await new.stored(), "HITL_TASK_CREATED")["excluded"] == ["ann", "tester", "eve"]
    await _approve(new, "bob")
    assert (await new.end())["run"]["status"] == "COMPLETED"


async def test_four_eyes_see_into_runs_below_and_above(shared_engine: Engine) -> None:
    """Who decided before a sub-plan cannot approve in it, and who decided in it cannot approve after it."""
    inner = {"name": "inner", "nodes": [{"nodeId": "in", "type": "human", "task": {"fourEyes": True}}]}
    plan = {
        "nodes": [
            {"nodeId": "before", "type": "human"},
            {"nodeId": "sub", "type": "plan", "plan": inner},
            {"nodeId": "after", "type": "human", "task": {"fourEyes": True}},
        ],
        "edges": [{"sourceNodeId": "before", "targetNodeId": "sub"}, {"sourceNodeId": "sub", "targetNodeId": "after"}],
    }
    started = await shared_engine.start(plan, about={"id": "x", "createdBy": "sue"})
    await _approve(started, "ann")
    await started.until("NODE_STARTED", "sub")
    async with asyncio.timeout(PATIENCE):
        while not (child := await _child(shared_engine, started.run_id)):
            await asyncio.sleep(0.05)
    await child.until("HITL_TASK_CREATED")
    assert body_of(await child.stored(), "HITL_TASK_CREATED")["excluded"] == ["sue", "ann"]
    await _approve(child, "bob")
    await started.until("HITL_TASK_CREATED", "after")
    stored = await started.stored()
    assert body_of(stored, "HITL_TASK_CREATED", "after")["excluded"] == ["sue", "ann", "bob"]
    await _approve(started, "eve")
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def _child(engine: Engine, run_id: str) -> Started | None:
    async with transaction(engine.db, TENANT) as conn:
        query = text("select run_id from execution_runs where parent_run_id = :r")
        found = (await conn.execute(query, {"r": run_id})).scalar_one_or_none()
    if found is None:
        return None
    return Started(engine, str(found), engine.client.get_workflow_handle(f"run-{found}"))


async def test_a_person_per_element(shared_engine: Engine) -> None:
    """A map may ask about each element of a list; the results come in order, whoever decides first."""
    ask = {"nodeId": "ask", "type": "human", "inputs": {"who": "${inputs.item}"}, "task": {"title": "${inputs.item}?"}}
    plan = {"nodes": [{"nodeId": "each", "type": "map", "map": {"items": ["x", "y", "z"], "body": ask}}]}
    started = await shared_engine.start(plan)
    async with asyncio.timeout(PATIENCE):
        while not (child := await _child(shared_engine, started.run_id)):
            await asyncio.sleep(0.05)
        while len(tasks := await _tasks(child)) < 3:
            await asyncio.sleep(0.05)
    assert [task["title"] for task in tasks] == ["x?", "y?", "z?"]
    for task in reversed(tasks):
        payload = {"taskId": task["taskId"], "action": "approve", "operator": "ann"}
        await child.handle.execute_update("complete_human_task", payload)
    end = await started.end()
    results = body_of(end, "NODE_COMPLETED", "each")["outputs"]["results"]
    assert [one["who"] for one in results] == ["x", "y", "z"]
