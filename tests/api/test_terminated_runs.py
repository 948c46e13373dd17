"""Runs whose workflow was terminated: a run of its own undoes what may have taken effect, once, from what is known."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from temporalio.client import Client

from dalang import temporal
from dalang.nodes import NodeContext, node
from dalang.settings import Settings
from dalang.store.engine import system_transaction, transaction
from tests.api import world
from tests.api.world import Api, problem
from tests.harness import PATIENCE

RUNS = "/orchestrator/runs"

pytestmark = pytest.mark.usefixtures("working")
undone: list[tuple[str, str, dict[str, Any]]] = []
"""What compensations were asked for: the key of what they undo, its status, its outputs."""


@node("api-test-undo")
async def undo(ctx: NodeContext) -> dict[str, Any]:
    """Note what is undone."""
    assert ctx.undoes is not None
    undone.append((ctx.undoes.idempotency_key, ctx.undoes.status, dict(ctx.undoes.outputs)))
    return {}


def _plan(name: str, **more: Any) -> dict[str, Any]:
    """Something that succeeds, then something that hangs, then something that never starts; all can be undone."""
    undo = {"compensation": {"type": "api-test-undo"}}
    nodes = [
        {"nodeId": "made", "type": "api-test-echo", "inputs": {"big": "x" * 20_000}, **undo},
        {"nodeId": "plain", "type": "api-test-echo"},
        {
            "nodeId": "hangs",
            "type": "api-test-gate",
            "inputs": {"name": name},
            "timeouts": {"startToClose": "2s"},
            **undo,
        },
        {"nodeId": "never", "type": "api-test-echo", **undo},
    ]
    edges = [
        {"sourceNodeId": "made", "targetNodeId": "plain", "mapping": {}},
        {"sourceNodeId": "plain", "targetNodeId": "hangs", "mapping": {}},
        {"sourceNodeId": "hangs", "targetNodeId": "never"},
    ]
    return {"name": "t", "nodes": nodes, "edges": edges, **more}


async def _hanging(api: Api, **more: Any) -> str:
    name = uuid.uuid4().hex
    world.gates[name] = asyncio.Event()
    run_id = await api.execute(_plan(name, **more))
    await api.reached(run_id, "hangs", "RUNNING")
    undone.clear()
    return run_id


async def _reap(app: FastAPI) -> int:
    async with asyncio.timeout(PATIENCE):
        while not (found := await app.state.services.reaper.reap(settle=timedelta(0))):
            await asyncio.sleep(0.2)  # Temporal's list of ended workflows is late
    return int(found)


async def test_a_terminated_run_is_undone_by_another(app: FastAPI, api: Api, temporal_client: Client) -> None:
    """What succeeded and what was in flight is undone in reverse order, the latter when its time is over; once."""
    run_id = await _hanging(api)
    await temporal_client.get_workflow_handle(f"run-{run_id}").terminate("for the test")
    assert await _reap(app) == 1
    run = await api.get(f"{RUNS}/{run_id}")
    other = run["undoneBy"]
    assert (run["status"], run["reason"]) == ("FAILED", "TERMINATED")
    assert other in run["error"]["message"]
    assert await app.state.services.reaper.reap(settle=timedelta(0)) == 0
    ended = await api.ended(other)
    assert (ended["status"], ended["undoOf"], ended["rootRunId"]) == ("FAILED", run_id, run_id)
    assert ended["nodeStatusCounts"] == {"COMPENSATED": 2, "SUCCESS": 1, "CANCELLED": 1}
    assert [(key, status) for key, status, _ in undone] == [
        (f"{run_id}:hangs:0:0", "CANCELLED"),
        (f"{run_id}:made:0:0", "SUCCESS"),
    ]
    assert undone[1][2] == {"big": "x" * 20_000}
    events = {(one["type"], one["nodeId"]): one for one in (await api.get(f"{RUNS}/{other}/events"))["items"]}
    waited = _time(events["NODE_COMPENSATING", "hangs"]) - _time(events["PLAN_COMPENSATING", None])
    assert waited > timedelta(seconds=1)
    assert (await api.get(f"{RUNS}/{other}/verify"))["valid"]
    undoing = await temporal_client.get_workflow_handle(f"run-{run_id}-undo").describe()
    assert undoing.typed_search_attributes.get(temporal.TENANT) == "acme"
    # What is undone runs again in a redrive, under new keys; what never took effect is as it was.
    again = await api("POST", f"{RUNS}/{run_id}/redrive", json={"inputs": {"hangs": {"name": _open()}}})
    assert again.status_code == 202, again.text
    redriven = await api.ended(again.json()["runId"])
    assert (redriven["status"], redriven["redriveOf"]) == ("COMPLETED", run_id)
    nodes = (await api.get(f"{RUNS}/{redriven['runId']}/nodes"))["items"]
    assert {one["nodeId"]: one["generation"] for one in nodes} == {"made": 1, "plain": 1, "hangs": 1, "never": 0}
    problem(await api("POST", f"{RUNS}/{other}/redrive", json={}), 409)


def _open() -> str:
    name = uuid.uuid4().hex
    world.gates[name] = asyncio.Event()
    world.gates[name].set()
    return name


def _time(event: dict[str, Any]) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(event["at"])


async def test_what_the_store_was_not_told_is_found_in_the_history(
    app: FastAPI, api: Api, temporal_client: Client
) -> None:
    """Events that were never stored - here taken away - are made up for by what Temporal has recorded."""
    run_id = await _hanging(api)
    await temporal_client.get_workflow_handle(f"run-{run_id}").terminate("for the test")
    async with system_transaction(app.state.services.engine) as conn:
        for statement in (
            "DELETE FROM event_bodies WHERE run_id = :r AND seq > 2",
            "DELETE FROM node_executions WHERE run_id = :r",
        ):
            await conn.execute(text(statement), {"r": run_id})
        await conn.execute(text("UPDATE run_events SET superseded = true WHERE run_id = :r AND seq > 2"), {"r": run_id})
    assert await _reap(app) == 1
    ended = await api.ended((await api.get(f"{RUNS}/{run_id}"))["undoneBy"])
    assert ended["nodeStatusCounts"] == {"COMPENSATED": 2, "SUCCESS": 1, "CANCELLED": 1}
    assert undone[1] == (f"{run_id}:made:0:0", "SUCCESS", {"big": "x" * 20_000})


async def test_an_operator_ends_a_run_by_force(api: Api) -> None:
    """CANCELLED at once, with the reason; finally nodes run in the run that undoes; a second time it is refused."""
    run_id = await _hanging(
        api, **{"finally": [{"nodeId": "last", "type": "api-test-echo", "inputs": {"s": "${run.status}"}}]}
    )
    problem(await api("POST", f"{RUNS}/{run_id}/terminate", as_=("acme", "viewer")), 403)
    problem(await api("POST", f"{RUNS}/{run_id}/terminate", as_=("globex", "operator")), 404)
    answer = await api("POST", f"{RUNS}/{run_id}/terminate", json={"reason": "it hangs"})
    assert answer.status_code == 200, answer.text
    run = await api.get(f"{RUNS}/{run_id}")
    assert (run["status"], run["reason"], run["error"]) == ("CANCELLED", "it hangs", None)
    assert answer.json()["undoneBy"] == run["undoneBy"]
    refused = problem(await api("POST", f"{RUNS}/{run_id}/redrive", json={}), 409)
    assert "still undoing" in refused["detail"]
    ended = await api.ended(run["undoneBy"])
    assert (ended["status"], ended["reason"]) == ("CANCELLED", "it hangs")
    last = await api.get(f"{RUNS}/{run['undoneBy']}/nodes/last")
    assert (last["status"], last["outputs"]) == ("SUCCESS", {"s": "CANCELLED"})
    problem(await api("POST", f"{RUNS}/{run_id}/terminate"), 409)


async def test_nothing_is_undone_where_the_plan_wants_nothing_undone(api: Api) -> None:
    """Without a compensation that is wanted after such an end there is no other run."""
    run_id = await _hanging(api, compensate="onFailure")
    assert (await api("POST", f"{RUNS}/{run_id}/terminate")).json()["undoneBy"] is None
    assert (await api.get(f"{RUNS}/{run_id}"))["status"] == "CANCELLED"
    assert undone == []


async def test_the_undo_of_a_crash_is_started_by_the_reconciler(
    app: FastAPI, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stands in the transaction that ends the old run; any process finds it."""
    run_id = await _hanging(api)
    launcher = app.state.services.launcher
    with monkeypatch.context() as patched:
        patched.setattr(launcher, "start", _never)
        other = (await api("POST", f"{RUNS}/{run_id}/terminate")).json()["undoneBy"]
    assert (await api.get(f"{RUNS}/{other}"))["status"] == "PENDING"
    assert await launcher.reconcile(0) == 1
    assert (await api.ended(other))["nodeStatusCounts"]["COMPENSATED"] == 2


async def _never(*_: Any) -> bool:
    return True


async def test_a_run_of_another_cluster_is_not_judged(app: FastAPI, api: Api, temporal_client: Client) -> None:
    """A wiped or wrong server makes every run look dead: the stored cluster has to be the one that is asked."""
    run_id = await _hanging(api)
    async with transaction(app.state.services.engine, "acme") as conn:
        change = text("UPDATE execution_runs SET temporal_cluster_id = 'elsewhere' WHERE run_id = :r")
        await conn.execute(change, {"r": run_id})
    await temporal_client.get_workflow_handle(f"run-{run_id}").terminate("for the test")
    for _ in range(10):
        assert await app.state.services.reaper.reap(settle=timedelta(0)) == 0
        await asyncio.sleep(0.2)
    assert (await api.get(f"{RUNS}/{run_id}"))["status"] == "RUNNING"


async def test_an_undo_that_is_terminated_is_undone_further(api: Api, settings: Settings) -> None:
    """The next run goes on with what the first has not undone."""
    run_id = await _hanging(api)
    first = (await api("POST", f"{RUNS}/{run_id}/terminate")).json()["undoneBy"]
    await api.reached(first, "hangs", "CANCELLED")
    second = (await api("POST", f"{RUNS}/{first}/terminate")).json()["undoneBy"]
    assert second is not None
    ended = await api.ended(second)
    assert ended["nodeStatusCounts"]["COMPENSATED"] == 2
    assert [key for key, _, _ in undone] == [f"{run_id}:hangs:0:0", f"{run_id}:made:0:0"]
