"""The table of refusals in docs/errors.md, line by line: over REST, as update, and as signal where there is one.

Whoever adds a line to the table says here what is sent; a line without a request, or the other way round, fails.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from dalang import wire
from dalang.store.callbacks import PREFIX
from tests.api.test_human_decisions import FORM, asked, decision, review
from tests.api.test_human_tasks import APPROVER, TASKS
from tests.api.world import Api, chain, problem
from tests.harness import PATIENCE, ROOT

RUNS = "/orchestrator/runs"
HEADING = "## Requests that are refused"
SIGNALS = {name for name in vars(wire).values() if isinstance(name, str)} & {
    "pause",
    "resume",
    "cancel",
    "replan",
    "external_event",
    "complete_human_task",
    "claim_human_task",
    "release_human_task",
    "delegate_human_task",
}


def table() -> dict[str, tuple[int, str]]:
    """Return the lines: what is asked, its answer over REST, and how an update is refused, or a dash."""
    section = (ROOT / "docs/errors.md").read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (\d{3}) \| (.+?) \|$", section, flags=re.M)
    return {what: (int(status), kind.strip("`")) for what, status, kind in rows}


@dataclass(frozen=True)
class Place:
    """What requests are about: runs in three states, their tasks, and a token for what is not there."""

    asking: str
    """AWAITING_HITL: `draft` is SUCCESS, `ask` waits for a person, `publish` and `shelve` have not started."""
    held: str
    """PAUSED since `n1` failed under failurePolicy pause."""
    ended: str
    """COMPLETED; its task was approved."""
    eyes: str
    """AWAITING_HITL: its task excludes whoever started it."""
    task: dict[str, Any]
    """Of `asking`, claimed by the approver."""
    decided: dict[str, Any]
    """Of `ended`."""
    own: dict[str, Any]
    """Of `eyes`."""
    none: str
    """The id of nothing."""


@dataclass(frozen=True)
class Sent:
    """A request over REST and, where a run is asked, the same as update: (run, name, payload)."""

    path: str
    body: Any = None
    method: str = "POST"
    as_: tuple[str, str] | None = ("acme", "operator")
    more: dict[str, Any] | None = None
    update: tuple[str, str, Any] | None = None


def _node(node_id: str, kind: str = "noop") -> dict[str, Any]:
    return {"nodeId": node_id, "type": kind}


def _replan(run: str, **body: Any) -> Sent:
    return Sent(f"{RUNS}/{run}/replan", body, update=(run, "replan", body))


def _patch(run: str, **patch: Any) -> Sent:
    return _replan(run, patch=patch)


def _decide(run: str, task: dict[str, Any], verb: str = "approve", who: str = "approver", **body: Any) -> Sent:
    sent = {"action": verb, **decision(task), **body}
    told = {"taskId": task["taskId"], "operator": f"{who}@acme", **sent}
    path = f"{TASKS}/{task['taskId']}/complete"
    return Sent(path, sent, as_=("acme", who), update=(run, "complete_human_task", told))


def _at_node(run: str, node: str, verb: str, **body: Any) -> Sent:
    return Sent(f"{RUNS}/{run}/nodes/{node}/{verb}", body, update=(run, f"{verb}_node", {"nodeId": node, **body}))


def _control(run: str, verb: str, **body: Any) -> Sent:
    return Sent(f"{RUNS}/{run}/{verb}", body, update=(run, verb, body))


SENT: dict[str, Callable[[Place], Sent]] = {
    # unknown ids
    "a run that is unknown, or another tenant's": lambda w: Sent(
        f"{RUNS}/{w.asking}/pause", as_=("globex", "operator")
    ),
    "a stored plan that is unknown": lambda w: Sent("/orchestrator/execute", {"planId": w.none}),
    "a node that is unknown": lambda w: _at_node(w.asking, "nobody", "skip"),
    "a task that is unknown": lambda w: _decide(w.asking, {**w.task, "taskId": w.none}),
    "a checkpoint of a run that is unknown": lambda w: Sent(f"{RUNS}/{w.ended}/redrive", {"checkpoint": "nothing"}),
    "a node to redrive from that is unknown": lambda w: Sent(f"{RUNS}/{w.ended}/redrive", {"from": ["nobody"]}),
    "the token of a callback that is unknown": lambda w: Sent("/orchestrator/callbacks/nothing", {}, as_=None),
    # the wrong state
    "anything of a run that has ended": lambda w: _control(w.ended, "pause"),
    "resume of a run that is not paused": lambda w: _control(w.asking, "resume"),
    "resume while a failed node waits for a decision": lambda w: _control(w.held, "resume"),
    "retry of a node that does not wait for a decision": lambda w: _at_node(w.asking, "draft", "retry"),
    "skip of a node that has ended": lambda w: _at_node(w.asking, "draft", "skip"),
    "redrive of a run that has not ended": lambda w: Sent(f"{RUNS}/{w.asking}/redrive", {}),
    "redrive when there is nothing to run again": lambda w: Sent(f"{RUNS}/{w.ended}/redrive", {}),
    "a task that is decided, has expired, or whose run has ended": lambda w: _decide(w.ended, w.decided),
    "a task that somebody else has": lambda w: _decide(w.asking, w.task, who="operator", values={"channel": "blog"}),
    "release of a task that one has not claimed": lambda w: Sent(
        f"{TASKS}/{w.own['taskId']}/release",
        {},
        as_=APPROVER,
        update=(w.eyes, "release_human_task", {"taskId": w.own["taskId"], "operator": "approver@acme"}),
    ),
    # what has changed meanwhile
    "a decision with the digest of something else": lambda w: _decide(w.eyes, w.own, digest="e" * 64),
    "a replan for another revision than the run is at": lambda w: _replan(
        w.asking, patch={"addNodes": [_node("x")]}, expectedRevision=9
    ),
    "an Idempotency-Key that was used for another body": lambda w: Sent(
        "/orchestrator/execute", {"plan": chain("noop", "noop")}, more={"headers": {"Idempotency-Key": "refusals"}}
    ),
    # who asks
    "no token, or one that is not valid": lambda w: Sent(f"{RUNS}/{w.asking}/pause", as_=None),
    "a token without the role": lambda w: Sent(f"{RUNS}/{w.asking}/pause", as_=("acme", "viewer")),
    "a task that four eyes close to whoever decides": lambda w: _decide(w.eyes, w.own, who="operator"),
    # patches
    "a patch of a node or an edge that is unknown": lambda w: _patch(w.asking, removeEdges=["nothing"]),
    "a patch that leaves an edge without its node": lambda w: _patch(w.asking, removeNodes=["shelve"]),
    "a patch that makes a cycle": lambda w: _patch(
        w.asking,
        addNodes=[_node("x")],
        addEdges=[
            {"sourceNodeId": "publish", "targetNodeId": "x"},
            {"sourceNodeId": "x", "targetNodeId": "publish"},
        ],
    ),
    "a patch with a node that is no valid one": lambda w: _patch(w.asking, addNodes=[_node("x", "nothing")]),
    "a patch of nothing": lambda w: _replan(w.asking, patch={}),
    "a patch and a plan at once": lambda w: _replan(w.asking, patch={}, plan={}),
    "a patch of what has started or finished": lambda w: _patch(w.asking, changeInputs={"draft": {"text": "other"}}),
    "a new edge into what has started": lambda w: _patch(
        w.asking, addNodes=[_node("x")], addEdges=[{"sourceNodeId": "x", "targetNodeId": "ask"}]
    ),
    # what is malformed
    "a decision without a digest": lambda w: Sent(f"{TASKS}/{w.own['taskId']}/approve", {}, as_=APPROVER),
    "an action that the task does not have": lambda w: _decide(w.eyes, w.own, "retry"),
    "values that the form does not take": lambda w: _decide(w.asking, w.task, values={"channel": "pigeon"}),
    "an unknown field": lambda w: _control(w.asking, "pause", reasn="lunch"),
    "a value of the wrong type": lambda w: _control(w.asking, "pause", reason=7),
    "an event without a name": lambda w: Sent(
        f"{RUNS}/{w.asking}/events", {"payload": {}}, update=(w.asking, "external_event", {"payload": {}})
    ),
    "a callback with outputs and an error": lambda w: Sent(
        f"/orchestrator/callbacks/{PREFIX}x", {"outputs": {}, "error": {}}, as_=None
    ),
    "a body that is no JSON": lambda w: Sent(
        f"{RUNS}/{w.asking}/pause", more={"content": b"{", "headers": {"Content-Type": "application/json"}}
    ),
    "a body that is too large": lambda w: Sent(f"{RUNS}/{w.asking}/pause", {"reason": "x" * 100_000}),
    "a body of another Content-Type": lambda w: Sent(
        "/orchestrator/execute", more={"content": b"<a/>", "headers": {"Content-Type": "text/xml"}}
    ),
}


def test_every_line_of_the_table_has_its_request() -> None:
    """And every request its line."""
    assert list(table()) == list(SENT)


async def _place(api: Api) -> Place:
    ended, decided = await asked(api, review())
    taken = await api("POST", f"{TASKS}/{decided['taskId']}/approve", json=decision(decided), as_=APPROVER)
    assert taken.status_code == 200, taken.text
    await api.ended(ended)
    asking, task = await asked(api, review(form=FORM))
    claimed = await api("POST", f"{TASKS}/{task['taskId']}/claim", json={}, as_=APPROVER)
    assert claimed.status_code == 200, claimed.text
    eyes, own = await asked(api, review(fourEyes=True))
    held = await api.execute(chain("api-test-broken", "noop", failurePolicy="pause"))
    await api.reached(held, "n1", "FAILED")
    await api.execute(chain("noop"), headers={"Idempotency-Key": "refusals"})
    return Place(asking, held, ended, eyes, task, decided, own, str(uuid4()))


@pytest.mark.usefixtures("working")
async def test_each_line_is_answered_as_the_table_says(api: Api, temporal_client: Client) -> None:
    """Over REST with its status, as update with its type, as signal with REQUEST_REJECTED; nothing else happens."""
    place = await _place(api)
    rejected: dict[str, int] = {}
    wrong: list[str] = []
    for what, (status, kind) in table().items():
        sent = SENT[what](place)
        if sent.more is None:
            answer = await api(sent.method, sent.path, as_=sent.as_, json=sent.body)
        else:
            more = sent.more if "content" in sent.more else {**sent.more, "json": sent.body}
            answer = await api(sent.method, sent.path, as_=sent.as_, **more)
        if answer.status_code != status:
            wrong.append(f"{what}: {answer.status_code}, not {status}: {answer.text}")
        else:
            problem(answer, status)
        if (sent.update is None) != (kind == "-"):
            wrong.append(f"{what}: an update of it is {'not ' if sent.update is None else ''}tried here")
        elif sent.update is not None:
            run, name, payload = sent.update
            told = await _updated(temporal_client, run, name, payload)
            wrong += [] if told == kind else [f"{what}: the update is {told}, not {kind}"]
            if run != place.ended and name in SIGNALS:
                await temporal_client.get_workflow_handle(f"run-{run}").signal(name, payload)
                rejected[run] = rejected.get(run, 0) + 1
    assert not wrong, "\n".join(wrong)
    for run, count in rejected.items():
        await _told(api, run, count)
    statuses = [(await api.get(f"{RUNS}/{run}"))["status"] for run in (place.asking, place.held, place.eyes)]
    assert statuses == ["AWAITING_HITL", "PAUSED", "AWAITING_HITL"]
    for run in (place.asking, place.held, place.eyes):
        assert (await api("POST", f"{RUNS}/{run}/cancel")).status_code == 200


async def _updated(client: Client, run: str, name: str, payload: Any) -> str:
    try:
        await client.get_workflow_handle(f"run-{run}").execute_update(name, payload)
    except WorkflowUpdateFailedError as error:
        return str(error.cause.type) if isinstance(error.cause, ApplicationError) else repr(error.cause)
    except RPCError as error:
        return error.status.name
    return "taken"


async def _told(api: Api, run: str, count: int) -> None:
    """Wait until the run has recorded so many refusals."""
    async with asyncio.timeout(PATIENCE):
        while True:
            page = await api.get(f"{RUNS}/{run}/events", params={"type": "REQUEST_REJECTED", "limit": 200})
            if len(page["items"]) >= count:
                assert len(page["items"]) == count
                return
            await asyncio.sleep(0.1)
