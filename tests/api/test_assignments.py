"""Asking for work over REST: tokens, what is refused, and that nobody gets what is not his."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from fastapi import FastAPI

from dalang.store.agents import drain_agent, get_agent
from dalang.store.assignments import Assignment, look, mark_delivered, open_assignment, withdraw
from dalang.store.engine import system_transaction, transaction
from tests.api.world import Api, chain, problem

AGENT = "/orchestrator/agents/ada"
NOW = {"waitSeconds": 0}


class Desk:
    """Opens assignments as the activity of a node does."""

    def __init__(self, app: FastAPI, run_id: str) -> None:
        self.engine = app.state.services.engine
        self.run_id = run_id

    async def open(self, node: str = "n", agent_id: str = "ada") -> Assignment:
        task = {"tenantId": "acme", "runId": self.run_id, "nodeId": node, "key": f"{self.run_id}:{node}", "inputs": {}}
        async with transaction(self.engine, "acme") as conn:
            agent = await get_agent(conn, "acme", agent_id)
            assert agent is not None
            return await open_assignment(conn, agent, task, 30)


@pytest.fixture
async def desk(app: FastAPI, api: Api) -> Desk:
    for name in ("ada", "bob"):
        assert (await api("PUT", f"/orchestrator/agents/{name}", json={})).status_code == 200
    return Desk(app, await api.execute(chain("noop", name="waits")))


async def test_work_is_given_once_and_ends_once(api: Api, desk: Desk) -> None:
    """The token is what lets somebody speak of it; saying the same again is answered as before."""
    one = await desk.open()
    assert (await desk.open()).assignment_id == one.assignment_id
    taken = (await api("POST", f"{AGENT}/poll", json=NOW)).json()
    assert taken["assignmentId"] == str(one.assignment_id)
    assert taken["nodeTask"]["key"] == f"{desk.run_id}:n"
    assert (await api("POST", f"{AGENT}/poll", json=NOW)).status_code == 204
    at = f"{AGENT}/assignments/{one.assignment_id}"
    for wrong in ({"token": "dalang_as_wrong"}, {"token": taken["token"] + "x"}):
        problem(await api("POST", f"{at}/complete", json=wrong), 404)
    problem(await api("POST", f"{AGENT}/assignments/{uuid.uuid4()}/progress", json={"token": taken["token"]}), 404)
    token = {"token": taken["token"]}
    assert (await api("POST", f"{at}/progress", json={**token, "message": "half", "fraction": 0.5})).status_code == 200
    done = {**token, "outputs": {"x": 1}, "usage": {"tokens": 5}}
    for _ in range(2):
        assert (await api("POST", f"{at}/complete", json=done)).status_code == 200
    problem(await api("POST", f"{at}/fail", json=token), 409)
    async with transaction(desk.engine, "acme") as conn:
        seen = await look(conn, one.assignment_id)
        assert seen is not None
        assert seen.outcome == {"outputs": {"x": 1}, "usage": {"tokens": 5, "cost": 0}}
        assert (await desk.open()).state == "COMPLETED"
        await mark_delivered(conn, one.assignment_id)
    assert (await desk.open()).assignment_id != one.assignment_id


async def test_who_waits_is_woken(api: Api, desk: Desk) -> None:
    """Long before the wait is over."""
    waiting = asyncio.create_task(api("POST", f"{AGENT}/poll", json={"waitSeconds": 30}))
    await asyncio.sleep(0.5)
    await desk.open()
    done, _ = await asyncio.wait({waiting}, timeout=20)
    assert done
    assert waiting.result().status_code == 200


async def test_what_is_withdrawn_is_told(api: Api, desk: Desk) -> None:
    """Once it was, whoever waits for that knows."""
    one = await desk.open()
    taken = (await api("POST", f"{AGENT}/poll", json=NOW)).json()
    async with transaction(desk.engine, "acme") as conn:
        assert not await withdraw(conn, one.assignment_id, "silent", silent=60)
        assert await withdraw(conn, one.assignment_id, "cancelled")
        seen = await look(conn, one.assignment_id)
        assert seen is not None
        assert (seen.state, seen.told) == ("WITHDRAWN", False)
    for what in ("progress", "complete", "fail"):
        answer = await api("POST", f"{AGENT}/assignments/{one.assignment_id}/{what}", json={"token": taken["token"]})
        assert "stop it" in problem(answer, 409)["detail"]
    async with transaction(desk.engine, "acme") as conn:
        seen = await look(conn, one.assignment_id)
        assert seen is not None
        assert seen.told


async def test_what_nobody_took_goes_to_the_agent_that_was_chosen_last(api: Api, desk: Desk) -> None:
    """Two never have the same work."""
    await desk.open()
    await desk.open(agent_id="bob")
    assert (await api("POST", f"{AGENT}/poll", json=NOW)).status_code == 204
    assert (await api("POST", "/orchestrator/agents/bob/poll", json=NOW)).status_code == 200


async def test_work_of_a_run_that_has_ended_is_given_to_nobody(api: Api, desk: Desk) -> None:
    """As when its run was terminated."""
    await desk.open()
    async with system_transaction(desk.engine) as conn:
        await conn.exec_driver_sql("UPDATE execution_runs SET status = 'FAILED', completed_at = now()")
    assert (await api("POST", f"{AGENT}/poll", json=NOW)).status_code == 204


async def test_two_that_ask_at_once_get_different_work(api: Api, desk: Desk) -> None:
    """Of five things each is given once."""
    for at in range(5):
        await desk.open(f"n{at}")
    answers = await asyncio.gather(*(api("POST", f"{AGENT}/poll", json=NOW) for _ in range(8)))
    given = [one.json()["assignmentId"] for one in answers if one.status_code == 200]
    assert len(given) == len(set(given)) == 5


async def test_it_sees_whether_its_agent_is_there(api: Api, desk: Desk) -> None:
    """Draining counts as not there for what nobody has taken."""
    one = await desk.open()
    async with transaction(desk.engine, "acme") as conn:
        await drain_agent(conn, "acme", "ada")
        seen = await look(conn, one.assignment_id)
    assert seen is not None
    assert not seen.agent_takes


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("poll", {"waitSeconds": 61}),
        ("poll", {"waitSeconds": -1}),
        ("progress", {}),
        ("progress", {"token": "x", "fraction": 2}),
        ("complete", {"token": "x", "outputs": []}),
        ("complete", {"token": "x", "usage": {"tokens": -1}}),
        ("fail", {"token": "x", "error": {"type": "OOPS"}}),
    ],
)
async def test_bad_bodies(api: Api, desk: Desk, what: str, body: dict[str, Any]) -> None:
    path = what if what == "poll" else f"assignments/{uuid.uuid4()}/{what}"
    assert problem(await api("POST", f"{AGENT}/{path}", json=body), 422)["problems"]


async def test_only_an_agent_that_asks_is_given_work(api: Api, desk: Desk) -> None:
    await api("PUT", "/orchestrator/agents/loc", json={"kind": "local"})
    problem(await api("POST", "/orchestrator/agents/loc/poll", json=NOW), 409)
    problem(await api("POST", "/orchestrator/agents/nobody/poll", json=NOW), 404)
    problem(await api("POST", f"{AGENT}/poll", json=NOW, as_=("globex", "admin")), 404)
    problem(await api("POST", f"{AGENT}/poll", json=NOW, as_=("acme", "viewer")), 403)
