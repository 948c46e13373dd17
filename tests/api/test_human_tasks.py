"""The inbox over REST: what is listed and shown, and what is refused before a run is asked. Facts are made by hand."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from temporalio.client import Client

from dalang.store.chain import EMPTY_HEAD
from dalang.store.engine import transaction
from dalang.store.runs import Run
from dalang.store.tokens import create_token
from dalang.wire import Fact
from tests.api.world import Api, chain, problem
from tests.store.task_facts import completed, created, happened, task_id
from tests.store.world import World, begun

TASKS = "/orchestrator/human-tasks"
DIGEST = "d" * 64
APPROVER = ("acme", "approver")


@pytest.fixture
def store(app: FastAPI) -> World:
    """The app's store, seen from a workflow."""
    return World(app.state.services.engine)


async def asked(store: World, *facts: Any, run: Run | UUID | None = None) -> UUID:
    """A run with these tasks: each a function of (seq, run id)."""
    run = run or await store.run()
    run_id = run if isinstance(run, UUID) else run.run_id
    made: list[Fact] = [one(5 + at, run_id) for at, one in enumerate(facts)]
    await store.flush(run, [*begun(), *made], EMPTY_HEAD)
    return run_id


def ask(node: str, body: Any = None, **data: Any) -> Any:
    return lambda seq, run_id: created(seq, run_id, node, body, **data)


def later(what: str, node: str, now: str, **data: Any) -> Any:
    return lambda seq, run_id: happened(seq, what, run_id, node, now, **data)


async def member(app: FastAPI, api: Api, subject: str, *groups: str, role: str = "approver") -> Any:
    """A function that asks as this person."""
    async with transaction(app.state.services.engine, "acme") as conn:
        plain, _ = await create_token(conn, "acme", subject, [role], groups=groups)

    async def send(method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {plain}", **more.pop("headers", {})}
        return await api(method, path, as_=None, headers=headers, **more)

    return send


async def test_the_inbox_is_listed_by_urgency_narrowed_and_counted(app: FastAPI, api: Api, store: World) -> None:
    """Everybody who may read sees all tasks of the tenant; `mine` is what waits for the token's person and groups."""
    run_id = await asked(
        store,
        ask("low"),
        ask("high", priority=5, group="managers"),
        ask("mine", assignee="dora"),
        ask("late", dueAt=1_000),
        ask("done"),
        lambda seq, run: completed(seq, run, "done"),
    )
    dora = await member(app, api, "dora", "managers", "lawyers")

    async def nodes(send: Any = api, **query: Any) -> list[str]:
        response = await send("GET", TASKS, params=query)
        assert response.status_code == 200, response.text
        return [one["nodeId"] for one in response.json()["items"]]

    assert await nodes(open=True) == ["high", "low", "mine", "late"]
    assert await nodes(dora, mine=True) == ["high", "low", "mine", "late"]
    assert await nodes(mine=True) == ["low", "late"]
    assert await nodes(status=["COMPLETED", "EXPIRED"]) == ["done"]
    assert await nodes(assignee="dora") == ["mine"]
    assert await nodes(group="managers") == ["high"]
    assert await nodes(overdue=True) == ["late"]
    assert await nodes(runId=run_id, order="newest", limit=2) == ["done", "late"]
    assert await nodes(runId=uuid4()) == await nodes(kind="failure") == []
    page = await api.get(TASKS, params={"limit": 2})
    rest = await api.get(TASKS, params={"limit": 10, "cursor": page["next"]})
    assert [one["nodeId"] for one in page["items"] + rest["items"]] == ["high", "low", "mine", "late", "done"]
    counts = (await dora("GET", f"{TASKS}/counts")).json()
    assert counts == {
        "counts": {"PENDING": 4, "COMPLETED": 1},
        "byGroup": {"": 3, "managers": 1},
        "open": 4,
        "overdue": 1,
        "unassigned": 3,
        "mine": 4,
        "total": 5,
    }
    assert await nodes(lambda *a, **m: api(*a, as_=("globex", "admin"), **m)) == []


async def test_a_task_shows_everything_and_its_history(api: Api, store: World) -> None:
    """What is asked, what the form is, the digest to decide by, and each thing that happened to it."""
    form = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    run_id = await asked(
        store,
        ask("a", {"form": form, "excluded": ["alice"]}, priority=2),
        later("CLAIMED", "a", "IN_PROGRESS", assignee="bob", operator="bob"),
        lambda seq, run: completed(seq, run, "a"),
    )
    task = await api.get(f"{TASKS}/{task_id(run_id, 'a')}", as_=("acme", "viewer"))
    shown = {name: task[name] for name in ("title", "description", "context", "form", "excluded", "digest", "actions")}
    assert shown == {
        "title": "Approve a",
        "description": "**Look** at it",
        "context": {"amount": 17},
        "form": form,
        "excluded": ["alice"],
        "digest": DIGEST,
        "actions": ["approve", "reject", "edit"],
    }
    assert (task["status"], task["completedBy"], task["notes"]) == ("COMPLETED", "bob", "fine")
    assert task["decision"] == {"action": "approve", "values": {"ok": True}}
    assert (task["runId"], task["createdBy"], task["planName"]) == (str(run_id), "alice", "deploy")
    happenings = [(one["id"], one["type"].removeprefix("HITL_TASK_")) for one in task["history"]]
    assert happenings == [("0.5", "CREATED"), ("0.6", "CLAIMED"), ("0.7", "COMPLETED")]
    assert task["history"][2]["decision"]["notes"] == "fine"
    assert task["history"][1]["data"] == {"taskStatus": "IN_PROGRESS", "assignee": "bob", "operator": "bob"}


APPROVE = {"digest": DIGEST}
TABLE: list[tuple[str, str, dict[str, Any], tuple[str, str], int, str]] = [
    # node, route, body, who, status, a part of the answer
    ("a", "approve", APPROVE, ("acme", "viewer"), 403, "roles"),
    ("a", "claim", {}, ("acme", "viewer"), 403, "roles"),
    ("a", "approve", APPROVE, ("globex", "approver"), 404, "no human task"),
    ("unknown", "approve", APPROVE, APPROVER, 404, "no human task"),
    ("a", "approve", {}, APPROVER, 422, "/digest"),
    ("a", "approve", {"digest": "yes"}, APPROVER, 422, "/digest"),
    ("a", "approve", {"digest": "e" * 64}, APPROVER, 409, "has changed"),
    ("a", "approve", {**APPROVE, "action": "reject"}, APPROVER, 422, "/action"),
    ("a", "edit", APPROVE, APPROVER, 422, "/outputs"),
    ("a", "complete", {**APPROVE, "action": "retry"}, APPROVER, 422, "/action"),
    ("a", "complete", APPROVE, APPROVER, 422, "/action"),
    ("a", "delegate", {}, APPROVER, 422, "toGroup"),
    ("a", "approve", {**APPROVE, "values": [1]}, APPROVER, 422, "/values"),
    ("done", "approve", APPROVE, APPROVER, 409, "bob decided approve"),
    ("done", "claim", {}, APPROVER, 409, "COMPLETED"),
    ("gone", "reject", APPROVE, APPROVER, 409, "EXPIRED"),
    ("hers", "approve", APPROVE, APPROVER, 409, "assigned to dora"),
    ("hers", "claim", {}, APPROVER, 409, "assigned to dora"),
    ("own", "claim", {}, APPROVER, 403, "four eyes"),
    ("ours", "approve", APPROVE, APPROVER, 403, "managers"),
    ("own", "approve", APPROVE, APPROVER, 403, "four eyes"),
    ("named", "approve", APPROVE, APPROVER, 403, "reserved to dora"),
    ("a", "approve", APPROVE, APPROVER, 409, "the run has ended"),
]


async def test_the_table_of_bad_answers(api: Api, store: World) -> None:
    """Unknown, decided, stale, somebody else's, malformed: each with its status and a sentence that says why."""
    run_id = await asked(
        store,
        ask("a"),
        ask("done"),
        lambda seq, run: completed(seq, run, "done"),
        ask("gone"),
        later("EXPIRED", "gone", "EXPIRED"),
        ask("hers", assignee="dora"),
        ask("ours", group="managers"),
        ask("own", {"excluded": ["approver@acme"]}),
        ask("named", candidates=["dora"]),
    )
    for node, route, body, who, status, part in TABLE:
        address = f"{TASKS}/{task_id(run_id, node)}/{route}"
        content = problem(await api("POST", address, json=body, as_=who), status)
        assert part.lower() in json.dumps(content).lower(), (node, route, content)
    problem(await api("GET", f"{TASKS}/{uuid4()}"), 404)
    problem(await api("GET", f"{TASKS}/nonsense"), 422)
    problem(await api("GET", TASKS, params={"status": "LOST"}), 422)
    problem(await api("GET", TASKS, params={"cursor": "bm9uZQ"}), 422)
    bad_key = {"Idempotency-Key": "k" * 300}
    problem(await api("POST", f"{TASKS}/{task_id(run_id, 'a')}/approve", json=APPROVE, headers=bad_key), 400)


async def test_one_of_many_is_refused_for_itself(api: Api, store: World) -> None:
    """Bulk answers each decision as it would have been answered alone, and takes a bounded number."""
    run_id = await asked(store, ask("a"), ask("hers", assignee="dora"), ask("ours", group="managers"))
    wanted: list[tuple[str, str, int]] = [("hers", "approve", 409), ("x", "approve", 404), ("ours", "approve", 403)]
    decisions = [{"taskId": str(task_id(run_id, node)), "action": action, **APPROVE} for node, action, _ in wanted]
    decisions.append({"taskId": str(task_id(run_id, "a")), "action": "jump", **APPROVE})
    response = await api("POST", f"{TASKS}/bulk", json={"decisions": decisions}, as_=APPROVER)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [one["code"] for one in answer["results"]] == [*(code for *_, code in wanted), 422]
    assert answer["results"][3]["problems"][0]["pointer"] == "/action"
    assert (answer["taken"], answer["refused"]) == (0, 4)
    one = decisions[0]
    problem(await api("POST", f"{TASKS}/bulk", json={"decisions": [one, one]}, as_=APPROVER), 422)
    problem(await api("POST", f"{TASKS}/bulk", json={"decisions": []}, as_=APPROVER), 422)
    many = [{**one, "taskId": str(uuid4())} for _ in range(101)]
    problem(await api("POST", f"{TASKS}/bulk", json={"decisions": many}, as_=APPROVER), 422)
    problem(await api("POST", f"{TASKS}/bulk", json={"decisions": decisions}, as_=("acme", "viewer")), 403)


async def test_a_key_answers_what_it_decided_before(app: FastAPI, api: Api, store: World) -> None:
    """Also when the run has ended since; for another decision, or another person, it is refused."""
    from uuid import NAMESPACE_URL, uuid5

    mine = str(uuid5(NAMESPACE_URL, "acme/approver@acme/key-1"))
    run_id = await asked(
        store, ask("a"), lambda seq, run: completed(seq, run, "a", by="approver@acme", decisionId=mine)
    )
    address, key = f"{TASKS}/{task_id(run_id, 'a')}", {"Idempotency-Key": "key-1"}
    again = await api("POST", f"{address}/approve", json=APPROVE, headers=key, as_=APPROVER)
    assert (again.status_code, again.json()["status"]) == (200, "COMPLETED")
    problem(await api("POST", f"{address}/reject", json=APPROVE, headers=key, as_=APPROVER), 409)
    problem(await api("POST", f"{address}/approve", json=APPROVE, headers={"Idempotency-Key": "x"}, as_=APPROVER), 409)
    eve = await member(app, api, "eve")
    problem(await eve("POST", f"{address}/approve", json=APPROVE, headers=key), 409)


async def test_without_a_worker_a_decision_is_kept_and_a_claim_is_not(
    app: FastAPI, api: Api, store: World, temporal_client: Client
) -> None:
    """202, and the decision lies in Temporal as a signal with its digest and id; a claim is answered 503."""
    app.state.services.controls.accept_seconds = 0.5
    run_id = UUID(await api.execute(chain("noop")))
    await asked(store, ask("a"), run=await found(store, run_id))
    address = f"{TASKS}/{task_id(run_id, 'a')}"
    kept = await api("POST", f"{address}/approve", json={**APPROVE, "notes": "go"}, as_=APPROVER)
    assert kept.status_code == 202, kept.text
    assert kept.json()["status"] == "PENDING"
    problem(await api("POST", f"{address}/claim", json={}, as_=APPROVER), 503)
    history = await temporal_client.get_workflow_handle(f"run-{run_id}").fetch_history()
    signals = [one.workflow_execution_signaled_event_attributes for one in history.events]
    [signal] = [one for one in signals if one.signal_name]
    assert signal.signal_name == "complete_human_task"
    payload = json.loads(signal.input.payloads[0].data)
    assert (payload["action"], payload["operator"], payload["digest"]) == ("approve", "approver@acme", DIGEST)
    assert UUID(payload["decisionId"])


async def found(store: World, run_id: UUID) -> Run:
    from dalang.store.runs import get_run

    async with transaction(store.engine, "acme") as conn:
        run = await get_run(conn, "acme", run_id)
    assert run is not None
    return run
