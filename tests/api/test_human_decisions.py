"""People decide over REST, and a real run takes it: forms, edits, quorum, four eyes, claims, keys, many at once."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI

from dalang.settings import Settings
from dalang.worker import worker
from tests.api.test_human_tasks import APPROVER, TASKS, member
from tests.api.world import Api, problem
from tests.harness import PATIENCE

FORM = {
    "type": "object",
    "properties": {"channel": {"enum": ["blog", "mail"]}, "days": {"type": "integer", "minimum": 1, "default": 7}},
    "required": ["channel"],
    "additionalProperties": False,
}
VALUES = {"channel": "blog"}


def review(**task: Any) -> dict[str, Any]:
    """A plan with one person in the middle; a rejection has its own way."""
    return {
        "name": "review",
        "nodes": [
            {"nodeId": "draft", "type": "noop", "inputs": {"text": "hello"}},
            {"nodeId": "ask", "type": "human", "inputs": {"text": "${nodes.draft.outputs.text}"}, "task": task},
            {"nodeId": "publish", "type": "noop"},
            {"nodeId": "shelve", "type": "noop"},
        ],
        "edges": [
            {"sourceNodeId": "draft", "targetNodeId": "ask"},
            {"sourceNodeId": "ask", "targetNodeId": "publish"},
            {"sourceNodeId": "ask", "sourcePort": "rejected", "targetNodeId": "shelve"},
        ],
        "outputs": {"said": "${nodes.ask.outputs}", "published": "${nodes.publish.status}"},
    }


async def waiting(api: Api, run_id: str, *, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many tasks of a run are open; return them, the most urgent first."""
    async with asyncio.timeout(PATIENCE):
        while True:
            page = await api.get(TASKS, params={"runId": run_id, "open": True})
            if len(page["items"]) == count:
                return list(page["items"])
            await asyncio.sleep(0.05)


async def asked(api: Api, plan: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Start a run; return its id and the task that it raises."""
    run_id = await api.execute(plan)
    [task] = await waiting(api, run_id)
    return run_id, task


def decision(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"digest": task["digest"], **more}


@pytest.mark.usefixtures("working")
async def test_an_approval_goes_into_the_outputs_and_is_taken_once(api: Api) -> None:
    """The form's defaults are filled in; the same key answers again, also after the end; any other decision is late."""
    run_id, task = await asked(api, review(title="Publish ${nodes.draft.outputs.text}", form=FORM, priority="high"))
    assert (task["title"], task["priority"], task["status"]) == ("Publish hello", 1, "PENDING")
    assert (await api.get(f"/orchestrator/runs/{run_id}"))["status"] == "AWAITING_HITL"
    address, key = f"{TASKS}/{task['taskId']}", {"Idempotency-Key": "once"}
    body = decision(task, values=VALUES, notes="well done")
    first = await api("POST", f"{address}/approve", json=body, headers=key, as_=APPROVER)
    assert (first.status_code, first.json()["status"]) == (200, "COMPLETED"), first.text
    run = await api.ended(run_id)
    assert run["outputs"]["said"] == {
        "text": "hello",
        "channel": "blog",
        "days": 7,
        "decision": "approve",
        "decidedBy": "approver@acme",
        "notes": "well done",
    }
    again = await api("POST", f"{address}/approve", json=body, headers=key, as_=APPROVER)
    assert (again.status_code, again.json()["status"]) == (200, "COMPLETED"), again.text
    late = problem(await api("POST", f"{address}/approve", json=body, as_=APPROVER), 409)
    assert "approver@acme decided approve" in late["detail"]
    task = await api.get(address)
    assert (task["completedBy"], task["notes"]) == ("approver@acme", "well done")
    assert [one["type"] for one in task["history"]] == ["HITL_TASK_CREATED", "HITL_TASK_COMPLETED"]


@pytest.mark.usefixtures("working")
async def test_a_form_is_filled_in_with_pointers_to_what_is_wrong(api: Api) -> None:
    """Every value that the form does not take is named, and the task stays open; who rejects need not fill it in."""
    run_id, task = await asked(api, review(form=FORM))
    address = f"{TASKS}/{task['taskId']}"
    bad = decision(task, values={"days": 0, "colour": "red"})
    found = problem(await api("POST", f"{address}/approve", json=bad, as_=APPROVER), 422)
    assert {one["pointer"] for one in found["problems"]} == {"/values", "/values/colour", "/values/days"}
    assert len(found["problems"]) == 3
    missing = problem(await api("POST", f"{address}/approve", json=decision(task), as_=APPROVER), 422)
    assert "channel" in missing["detail"]
    wrong = decision(task, action="approve", values=VALUES, outputs={"text": "x"})
    assert "outputs" in problem(await api("POST", f"{address}/complete", json=wrong, as_=APPROVER), 422)["detail"]
    partial = decision(task, values={"days": 0})
    problem(await api("POST", f"{address}/reject", json=partial, as_=APPROVER), 422)
    done = await api("POST", f"{address}/reject", json=decision(task, notes="no"), as_=APPROVER)
    assert done.status_code == 200, done.text
    run = await api.ended(run_id)
    assert (run["status"], run["outputs"]["published"]) == ("COMPLETED", "SKIPPED")


@pytest.mark.usefixtures("working")
async def test_an_edit_changes_the_outputs(api: Api) -> None:
    """What the person wrote is what goes on."""
    run_id, task = await asked(api, review())
    body = decision(task, outputs={"text": "hello, world"})
    done = await api("POST", f"{TASKS}/{task['taskId']}/edit", json=body, as_=APPROVER)
    assert done.status_code == 200, done.text
    run = await api.ended(run_id)
    assert (run["outputs"]["said"]["text"], run["outputs"]["said"]["decision"]) == ("hello, world", "edit")


@pytest.mark.usefixtures("working")
async def test_four_eyes_and_a_quorum(app: FastAPI, api: Api) -> None:
    """Who started the run is closed out, one person counts once, members of the group only, two approvals decide."""
    run_id, task = await asked(api, review(candidateGroup="managers", quorum=2, fourEyes=True))
    address, body = f"{TASKS}/{task['taskId']}", decision(task)
    ann, ben = [await member(app, api, name, "managers") for name in ("ann", "ben")]
    zoe = await member(app, api, "zoe", "lawyers")
    starter = await member(app, api, "operator@acme", "managers", role="operator")
    assert "Four eyes" in problem(await starter("POST", f"{address}/approve", json=body), 403)["detail"]
    assert "managers" in problem(await zoe("POST", f"{address}/approve", json=body), 403)["detail"]
    problem(await ann("POST", f"{address}/claim", json={}), 409)
    first = await ann("POST", f"{address}/approve", json=body, headers={"Idempotency-Key": "a"})
    assert (first.status_code, first.json()["status"]) == (200, "PENDING"), first.text
    assert "1 of 2" in first.json()["message"]
    repeated = await ann("POST", f"{address}/approve", json=body, headers={"Idempotency-Key": "a"})
    assert repeated.status_code == 200, repeated.text
    problem(await ann("POST", f"{address}/approve", json=body), 409)
    assert (await ann("GET", TASKS, params={"mine": True})).json()["items"] == []
    assert [one["operator"] for one in (await api.get(address))["votes"]] == ["ann"]
    second = await ben("POST", f"{address}/approve", json=body)
    assert (second.status_code, second.json()["status"]) == (200, "COMPLETED"), second.text
    assert (await api.ended(run_id))["outputs"]["said"]["decidedBy"] == "ben"


@pytest.mark.usefixtures("working")
async def test_claimed_released_and_delegated(app: FastAPI, api: Api) -> None:
    """What somebody has claimed nobody else decides; an operator may take it away."""
    run_id, task = await asked(api, review())
    address, body = f"{TASKS}/{task['taskId']}", decision(task)
    ann, ben = [await member(app, api, name) for name in ("ann", "ben")]

    async def told(send: Any, what: str, **body: Any) -> tuple[str, str | None]:
        response = await send("POST", f"{address}/{what}", json=body)
        assert response.status_code == 200, response.text
        return response.json()["status"], response.json()["assignedTo"]

    assert await told(ann, "claim") == ("IN_PROGRESS", "ann")
    assert await told(ann, "claim") == ("IN_PROGRESS", "ann")
    assert "ann" in problem(await ben("POST", f"{address}/approve", json=body), 409)["detail"]
    problem(await ben("POST", f"{address}/claim"), 409)
    problem(await ben("POST", f"{address}/release"), 409)
    problem(await ben("POST", f"{address}/delegate", json={"to": "ben"}), 409)
    assert await told(ann, "release") == ("PENDING", None)
    assert await told(ann, "delegate", to="ben") == ("PENDING", "ben")
    assert [one["taskId"] for one in (await ben("GET", TASKS, params={"mine": True})).json()["items"]] == [
        task["taskId"]
    ]
    assert await told(ben, "claim") == ("IN_PROGRESS", "ben")
    assert await told(api, "release") == ("PENDING", "ben"), "an operator may; it was delegated to ben"
    assert await told(api, "delegate", to="ann") == ("PENDING", "ann")
    assert (await ann("POST", f"{address}/approve", json=body)).status_code == 200
    task = await api.get(address)
    kinds = [one["type"].removeprefix("HITL_TASK_") for one in task["history"]]
    assert kinds == [
        "CREATED", "CLAIMED", "RELEASED", "DELEGATED", "CLAIMED", "RELEASED", "DELEGATED", "COMPLETED",
    ]  # fmt: skip
    await api.ended(run_id)


def failing() -> dict[str, Any]:
    node = {"nodeId": "charge", "type": "api-test-picky", "inputs": {"card": "0000"}}
    return {"name": "pay", "failurePolicy": "escalate", "nodes": [node], "outputs": {"paid": "${nodes.charge.outputs}"}}


@pytest.mark.usefixtures("working")
async def test_a_failure_asks_and_is_tried_again_with_other_inputs(api: Api) -> None:
    """The task shows the error; a retry that fails asks anew, with another task."""
    run_id, task = await asked(api, failing())
    shown = await api.get(f"{TASKS}/{task['taskId']}")
    assert (shown["kind"], shown["actions"]) == ("failure", ["retry", "skip", "abort"])
    assert shown["error"]["message"] == "the card 0000 is refused"
    body = {"action": "retry", **decision(task), "inputs": {"card": "1111"}}
    done = await api("POST", f"{TASKS}/{task['taskId']}/complete", json=body, as_=APPROVER)
    assert done.status_code == 200, done.text
    [second] = await waiting(api, run_id)
    assert second["taskId"] != task["taskId"]
    old = problem(await api("POST", f"{TASKS}/{task['taskId']}/complete", json=body, as_=APPROVER), 409)
    assert "retry" in old["detail"]
    body = {"action": "retry", **decision(second), "inputs": {"card": "4242"}}
    await api("POST", f"{TASKS}/{second['taskId']}/complete", json=body, as_=APPROVER)
    assert (await api.ended(run_id))["outputs"]["paid"] == {"receipt": "4242"}


def many(count: int) -> dict[str, Any]:
    nodes = [{"nodeId": f"ask{at}", "type": "human", "inputs": {"at": at}} for at in range(count)]
    return {"name": "many", "nodes": nodes}


@pytest.mark.usefixtures("working")
async def test_many_are_decided_at_once(api: Api) -> None:
    """Those that can be are taken, the others are refused, and each says which it is."""
    run_id = await api.execute(many(12))
    tasks = await waiting(api, run_id, count=12)
    decisions = [{"taskId": one["taskId"], "action": "approve", "digest": one["digest"]} for one in tasks]
    decisions[3]["digest"] = "e" * 64
    decisions[5]["action"] = "jump"
    answer = await api("POST", f"{TASKS}/bulk", json={"decisions": decisions}, as_=APPROVER)
    assert answer.status_code == 200, answer.text
    codes = [one["code"] for one in answer.json()["results"]]
    assert codes == [200, 200, 200, 409, 200, 422, *[200] * 6]
    left = await waiting(api, run_id, count=2)
    rest = [{"taskId": one["taskId"], "action": "approve", "digest": one["digest"]} for one in left]
    await api("POST", f"{TASKS}/bulk", json={"decisions": rest}, as_=APPROVER)
    assert (await api.ended(run_id))["status"] == "COMPLETED"


@pytest.mark.usefixtures("working")
async def test_of_many_people_at_once_one_decides(app: FastAPI, api: Api) -> None:
    """Whoever is first; all others are told that it is decided."""
    run_id, task = await asked(api, review())
    people = [await member(app, api, f"p{at}") for at in range(8)]
    answers = await asyncio.gather(
        *(one("POST", f"{TASKS}/{task['taskId']}/approve", json=decision(task)) for one in people)
    )
    assert sorted(one.status_code for one in answers) == [200, *[409] * 7]
    [winner] = [at for at, one in enumerate(answers) if one.status_code == 200]
    assert (await api.ended(run_id))["outputs"]["said"]["decidedBy"] == f"p{winner}"


@pytest.mark.usefixtures("working")
async def test_the_end_of_a_run_cancels_what_it_asks(api: Api) -> None:
    """And a task of it cannot be decided any more."""
    run_id, task = await asked(api, review())
    assert (await api("POST", f"/orchestrator/runs/{run_id}/cancel")).status_code == 200
    await api.ended(run_id)
    assert (await api.get(f"{TASKS}/{task['taskId']}"))["status"] == "CANCELLED"
    body = decision(task)
    assert "CANCELLED" in problem(await api("POST", f"{TASKS}/{task['taskId']}/approve", json=body), 409)["detail"]


async def test_a_decision_made_while_no_worker_answers_counts_when_one_is_back(
    app: FastAPI, api: Api, settings: Settings
) -> None:
    """It waits as a signal; the same key asked again meanwhile still counts once."""
    app.state.services.controls.accept_seconds = 1.0
    async with worker(settings):
        run_id, task = await asked(api, review())
    key = {"Idempotency-Key": "patience"}
    for _ in range(2):
        kept = await api("POST", f"{TASKS}/{task['taskId']}/approve", json=decision(task), headers=key, as_=APPROVER)
        assert kept.status_code == 202, kept.text
    async with worker(settings):
        run = await api.ended(run_id)
        events = (await api.get(f"/orchestrator/runs/{run_id}/events"))["items"]
    assert run["outputs"]["said"]["decidedBy"] == "approver@acme"
    assert [one["type"] for one in events].count("HITL_TASK_COMPLETED") == 1


@pytest.mark.usefixtures("working")
async def test_a_person_is_asked_within_a_plan_within_a_plan(api: Api) -> None:
    """The task is the inner run's; deciding it lets the outer one go on."""
    inner = review(title="Inner")
    node = {"nodeId": "sub", "type": "plan", "plan": {key: inner[key] for key in ("name", "nodes", "edges", "outputs")}}
    run_id = await api.execute(
        {"name": "outer", "nodes": [node], "outputs": {"by": "${nodes.sub.outputs.said.decidedBy}"}}
    )
    async with asyncio.timeout(PATIENCE):
        while not (tasks := (await api.get(TASKS, params={"open": True}))["items"]):
            await asyncio.sleep(0.05)
    [task] = tasks
    assert (task["title"], task["planName"]) == ("Inner", "review")
    assert task["runId"] != run_id
    done = await api("POST", f"{TASKS}/{task['taskId']}/approve", json=decision(task), as_=APPROVER)
    assert done.status_code == 200, done.text
    assert (await api.ended(run_id))["outputs"] == {"by": "approver@acme"}


@pytest.mark.usefixtures("working")
async def test_large_things_are_shown_and_edited(api: Api) -> None:
    """What is proposed may be larger than what events hold themselves; so may what a person makes of it."""
    plan = review()
    plan["nodes"][0]["inputs"] = {"text": "x" * 150_000}
    run_id, task = await asked(api, plan)
    shown = await api.get(f"{TASKS}/{task['taskId']}")
    assert len(shown["context"]["text"]) == 150_000
    body = decision(task, outputs={"text": "y" * 200_000})
    done = await api("POST", f"{TASKS}/{task['taskId']}/edit", json=body, as_=APPROVER)
    assert done.status_code == 200, done.text
    assert (await api.ended(run_id))["outputs"]["said"]["text"] == "y" * 200_000
    too_large = {**decision(task), "outputs": {"text": "z" * 700_000}}
    problem(await api("POST", f"{TASKS}/{task['taskId']}/edit", json=too_large, as_=APPROVER), 413)


@pytest.mark.usefixtures("working")
async def test_times_are_shown_before_they_come(api: Api) -> None:
    """When it is due, when somebody is reminded, when another group is asked."""
    task = review(due="2d", reminder="1d", escalation={"after": "3h", "to": "managers"})
    run_id, item = await asked(api, task)
    made = datetime.fromisoformat(item["createdAt"])
    after = {name: datetime.fromisoformat(item[name]) - made for name in ("dueAt", "remindAt", "escalateAt")}
    assert after == {"dueAt": timedelta(days=2), "remindAt": timedelta(days=1), "escalateAt": timedelta(hours=3)}
    assert (await api("POST", f"/orchestrator/runs/{run_id}/cancel")).status_code == 200
