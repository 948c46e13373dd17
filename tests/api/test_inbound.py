"""Events for whoever waits, events for one run, and callbacks: over REST, with a real worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from dalang.nodes import NodeContext, ToolError, node
from dalang.store.callbacks import PREFIX
from tests.api.world import Api, problem
from tests.harness import PATIENCE

EVENTS = "/orchestrator/events"

asked: dict[str, list[str]] = {}
"""The callback paths that ``api-test-ask`` nodes were given, by run."""


@node("api-test-ask")
async def ask(ctx: NodeContext, fail: int = 0, wait: float = 0) -> dict[str, Any]:
    """Note the address, as a service would; fail at first, and take a while."""
    assert ctx.callback_url is not None
    asked.setdefault(ctx.run_id, []).append(ctx.callback_url.partition("/orchestrator")[2])
    await asyncio.sleep(wait)
    if ctx.attempt <= fail:
        raise ToolError(f"no answer for {ctx.callback_url}", type="NETWORK_ERROR", retryable=True)
    return {"job": 7, "address": ctx.callback_url}


def waits(key: str = "A-1", **more: Any) -> dict[str, Any]:
    node = {"nodeId": "e", "type": "event", "inputs": {"name": "paid", "correlationKey": key}}
    return {"name": "waits", "nodes": [node], "outputs": {"n": "${nodes.e.outputs.n}"}, **more}


def asks(timeout: str = "1h", **inputs: Any) -> dict[str, Any]:
    node = {
        "nodeId": "a",
        "type": "api-test-ask",
        "inputs": inputs,
        "callback": {"timeout": timeout},
        "retryPolicy": {"initialDelayMs": 10},
    }
    return {"name": "asks", "nodes": [node], "outputs": {"all": "${nodes.a.outputs}"}}


async def send(api: Api, path: str = EVENTS, status: int = 202, headers: Any = None, **body: Any) -> dict[str, Any]:
    body = {"name": "paid", "correlationKey": "A-1", "payload": {"n": 1}, **body}
    response = await api("POST", path, json=body, headers=headers or {})
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


async def addresses(api: Api, run_id: str, count: int = 1) -> list[str]:
    """Wait until so many addresses were given out."""
    async with asyncio.timeout(PATIENCE):
        while len(asked.get(run_id, ())) < count:
            await asyncio.sleep(0.02)
    return ["/orchestrator" + path for path in asked[run_id]]


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("working")
async def test_an_event_reaches_every_run_that_waits(api: Api) -> None:
    """Those that wait already, those that begin to later, in the tenant of the sender only; and it says which."""
    early = [await api.execute(waits()) for _ in range(2)]
    other = await api.execute(waits("A-2"))
    for run in early:
        await api.reached(run, "e", "RUNNING")
    sent = await send(api, eventId="pay-1")
    assert sent == {"eventId": "pay-1", "repeated": False, "message": "Event accepted"}
    assert (await send(api, eventId="pay-1"))["repeated"]
    late = await api.execute(waits())
    for run in (*early, late):
        assert (await api.ended(run))["outputs"] == {"n": 1}
    found = await api.get(f"{EVENTS}/pay-1", as_=("acme", "viewer"))
    assert {one["runId"] for one in found["deliveries"]} == {*early, late}
    problem(await api("GET", f"{EVENTS}/pay-1", as_=("globex", "admin")), 404)
    assert (await api.get(f"/orchestrator/runs/{other}"))["status"] == "RUNNING"
    await api("POST", f"/orchestrator/runs/{other}/cancel")


@pytest.mark.usefixtures("working")
async def test_an_event_for_one_run(api: Api) -> None:
    """It is answered; the run keeps it when nobody waits yet; a run that has ended takes none."""
    plan = waits()
    plan["nodes"].insert(0, {"nodeId": "t", "type": "event", "inputs": {"name": "go"}})
    plan["edges"] = [{"sourceNodeId": "t", "targetNodeId": "e", "mapping": {"go": "go"}}]
    run_id = await api.execute(plan)
    await api.reached(run_id, "t", "RUNNING")
    path = f"/orchestrator/runs/{run_id}/events"
    first = await send(api, path, 200, headers={"Idempotency-Key": "once"})
    assert (first["eventId"], first["runId"], first["status"]) == ("once", run_id, "RUNNING")
    await send(api, path, 200, headers={"Idempotency-Key": "once"})
    assert (await api("POST", path, json={"name": "go"})).status_code == 200
    assert (await api.ended(run_id))["outputs"] == {"n": 1}
    kept = await api.get(f"/orchestrator/runs/{run_id}/events?type=EVENT_RECEIVED")
    assert [one["data"]["operator"] for one in kept["items"] if one["data"].get("eventId") == "once"] == [
        "operator@acme"
    ]
    assert "COMPLETED" in problem(await api("POST", path, json={"name": "paid"}), 409)["detail"]
    problem(
        await api("POST", "/orchestrator/runs/3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11/events", json={"name": "x"}), 404
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "MISSING_FIELD"),
        ({"name": ""}, "BAD_VALUE"),
        ({"name": "x" * 201}, "BAD_VALUE"),
        ({"name": "n", "correlationKey": 5}, "WRONG_TYPE"),
        ({"name": "n", "correlationKey": "x" * 501}, "BAD_VALUE"),
        ({"name": "n", "payload": []}, "WRONG_TYPE"),
        ({"name": "n", "payload": {"x": "y" * 270_000}}, "BAD_VALUE"),
        ({"name": "n", "eventId": "a\nb"}, "BAD_VALUE"),
        ({"name": "n", "ttl": "0s"}, "BAD_VALUE"),
        ({"name": "n", "ttl": "400d"}, "BAD_VALUE"),
        ({"name": "n", "ttl": 5}, "BAD_VALUE"),
        ({"name": "n", "key": "5"}, "UNKNOWN_FIELD"),
    ],
)
async def test_a_bad_event_is_refused(api: Api, body: dict[str, Any], code: str) -> None:
    """With the place and a code; nothing is kept."""
    found = problem(await api("POST", EVENTS, json=body), 422)
    assert [one["code"] for one in found["problems"]] == [code]


async def test_an_event_id_stands_for_one_event(api: Api) -> None:
    """With other content it is refused, from the body as from the header; who may not operate sends nothing."""
    await send(api, headers={"Idempotency-Key": "k"})
    assert (await send(api, headers={"Idempotency-Key": "k"}))["repeated"]
    problem(await api("POST", EVENTS, json={"name": "other", "eventId": "k"}), 409)
    problem(await api("POST", EVENTS, json={"name": "x"}, headers={"Idempotency-Key": "\t"}), 400)
    problem(await api("POST", EVENTS, json={"name": "x"}, as_=("acme", "approver")), 403)
    problem(await api("GET", f"{EVENTS}/nothing"), 404)


# -- callbacks ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("working")
async def test_a_callback_ends_its_node(api: Api) -> None:
    """Without any other token; the address is recorded nowhere, a second call is refused, one after the end is, too."""
    run_id = await api.execute(asks())
    (path,) = await addresses(api, run_id)
    await api.reached(run_id, "a", "RUNNING")
    response = await api("POST", path, as_=None, json={"outputs": {"text": "done"}})
    assert (response.status_code, response.json()) == (202, {"message": "The answer is accepted"})
    run = await api.ended(run_id)
    hidden = "http://127.0.0.1:8400/orchestrator/callbacks/***"
    assert run["outputs"] == {"all": {"text": "done", "acknowledgement": {"job": 7, "address": hidden}}}
    assert "answered before" in problem(await api("POST", path, as_=None, json={}), 409)["detail"]
    events = await api("GET", f"/orchestrator/runs/{run_id}/events?bodies=true")
    assert PREFIX not in events.text


@pytest.mark.usefixtures("working")
async def test_a_quick_service_calls_before_the_request_has_ended(api: Api) -> None:
    """What comes while the activity still runs is kept."""
    run_id = await api.execute(asks(wait=1.5))
    (path,) = await addresses(api, run_id)
    await api("POST", path, as_=None, json={"outputs": {"n": 1}})
    assert (await api.ended(run_id))["outputs"]["all"]["n"] == 1
    kinds = [one["type"] for one in (await api.get(f"/orchestrator/runs/{run_id}/events?nodeId=a"))["items"]]
    assert kinds == ["NODE_STARTED", "CALLBACK_RECEIVED", "NODE_COMPLETED"]


@pytest.mark.usefixtures("working")
async def test_any_attempts_address_takes_the_answer(api: Api) -> None:
    """The first request was taken although it failed for us; then the later address is closed. No text tells it."""
    run_id = await api.execute(asks(fail=2))
    paths = await addresses(api, run_id, 3)
    assert len(set(paths)) == 3
    assert (await api("POST", paths[0], as_=None, json={})).status_code == 202
    problem(await api("POST", paths[2], as_=None, json={}), 409)
    await api.ended(run_id)
    attempts = await api("GET", f"/orchestrator/runs/{run_id}/nodes/a")
    assert PREFIX not in attempts.text
    assert "***" in attempts.text


@pytest.mark.usefixtures("working")
async def test_a_callback_may_bring_an_error(api: Api) -> None:
    """The node fails with it."""
    run_id = await api.execute(asks())
    (path,) = await addresses(api, run_id)
    error = {"type": "LLM_ERROR", "message": "too long", "details": {"tokens": 9}}
    assert (await api("POST", path, as_=None, json={"error": error})).status_code == 202
    run = await api.ended(run_id)
    assert run["status"] == "FAILED"
    assert (run["error"]["type"], run["error"]["message"], run["error"]["originNode"]) == ("LLM_ERROR", "too long", "a")


@pytest.mark.usefixtures("working")
async def test_a_callback_that_comes_too_late(api: Api) -> None:
    """After its node failed with TIMEOUT it is refused: 409 while the run goes on, 410 after its end."""
    plan = asks("100ms")
    plan |= {"failurePolicy": "pause", "outputs": {}}
    run_id = await api.execute(plan)
    (path,) = await addresses(api, run_id)
    await api.reached(run_id, "a", "FAILED")
    assert "FAILED" in problem(await api("POST", path, as_=None, json={}), 409)["detail"]
    await api("POST", f"/orchestrator/runs/{run_id}/cancel")
    await api.ended(run_id)
    problem(await api("POST", path, as_=None, json={}), 410)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("x", {}, 404),
        (PREFIX + "x", {}, 404),
        (PREFIX + "x" * 500, {}, 404),
        (PREFIX + "x", {"outputs": {}, "error": {}}, 422),
        (PREFIX + "x", {"result": 1}, 422),
        (PREFIX + "x", {"error": {"type": "WEATHER"}}, 422),
        (PREFIX + "x", {"outputs": {"x": "y" * 270_000}}, 422),
        (PREFIX + "x", {"outputs": {"x": "y" * 400_000}}, 413),
    ],
)
async def test_bad_callbacks_are_refused(app: FastAPI, api: Api, path: str, body: Any, status: int) -> None:
    """Unknown tokens, answers that are none, too large ones."""
    problem(await api("POST", f"/orchestrator/callbacks/{path}", as_=None, json=body), status)
