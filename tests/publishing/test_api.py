"""Subscriptions by REST: who may make them, what they tell of themselves, and what can be done about failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI

from dalang.api import subscriptions
from dalang.webhook_signatures import verify
from tests.api.conftest import api, app  # noqa: F401 - fixtures
from tests.api.world import Api, problem
from tests.harness import PATIENCE
from tests.publishing.kit import Site, numbers
from tests.publishing.receiver import Received, Receiver, status

Receiving = Callable[..., Awaitable[Receiver]]
PATH = "/orchestrator/subscriptions"


@pytest.fixture
async def made(api: Api) -> Callable[..., Awaitable[dict[str, Any]]]:  # noqa: F811
    async def make(url: str = "http://127.0.0.1:9/hook", **body: Any) -> dict[str, Any]:
        role = body.pop("role", "operator")
        wanted = {"name": "one", "url": url, "retry": {"initialDelay": "20ms", "maxDelay": "50ms"}, **body}
        response = await api("POST", PATH, json=wanted, as_=("acme", role))
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        return found

    return make


async def test_a_subscription_from_making_to_deleting(
    api: Api,  # noqa: F811
    made: Callable[..., Awaitable[dict[str, Any]]],
) -> None:
    """The secret is shown once; another tenant does not see it at all."""
    one = await made(types=["NODE_FAILED"], description="pager", filter='event.data.nodeId == "deploy"')
    assert one["secret"].startswith("whsec_")
    found = await api.get(f"{PATH}/{one['subscriptionId']}")
    assert "secret" not in found
    assert "whsec_" not in str(found)
    assert (found["state"], found["types"], found["kind"]) == ("ACTIVE", ["NODE_FAILED"], "webhook")
    assert (found["retry"]["initialDelay"], found["retry"]["giveUpAfter"]) == ("20ms", "1d")
    assert [item["name"] for item in (await api.get(PATH))["items"]] == ["one"]
    assert found["url"] == "http://127.0.0.1:9/hook"
    for path in (PATH, f"{PATH}/{one['subscriptionId']}"):
        seen = (await api("GET", path, as_=("acme", "viewer"))).json()
        assert [item["url"] for item in seen.get("items", [seen])] == ["http://127.0.0.1:9/..."]
    problem(await api("GET", f"{PATH}/{one['subscriptionId']}", as_=("globex", "viewer")), 404)
    problem(await api("DELETE", f"{PATH}/{one['subscriptionId']}", as_=("globex", "admin")), 404)
    problem(await api("POST", PATH, json={"name": "one", "url": "http://127.0.0.1:9/"}), 409)
    body = {"name": "two", "url": "http://127.0.0.1:8/", "plans": ["deploy"]}
    changed = (await api("PUT", f"{PATH}/{one['subscriptionId']}", json=body)).json()
    assert (changed["name"], changed["types"], changed["plans"], changed["filter"]) == ("two", [], ["deploy"], None)
    problem(await api("DELETE", f"{PATH}/{one['subscriptionId']}", as_=("acme", "viewer")), 403)
    assert (await api("DELETE", f"{PATH}/{one['subscriptionId']}")).status_code == 204
    problem(await api("GET", f"{PATH}/{one['subscriptionId']}"), 404)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "x"}, ""),
    ({"name": "x y", "url": "http://127.0.0.1/"}, "/name"),
    ({"name": "x", "url": "ftp://127.0.0.1/"}, "/url"),
    ({"name": "x", "url": "http://user:pw@127.0.0.1/"}, "/url"),
    ({"name": "x", "url": "http://169.254.169.254/latest"}, "/url"),
    ({"name": "x", "url": "http://10.0.0.7/"}, "/url"),
    ({"name": "x", "url": "http://127.0.0.1/", "types": ["NO_SUCH"]}, "/types/0"),
    ({"name": "x", "url": "http://127.0.0.1/", "filter": "event.type =="}, "/filter"),
    ({"name": "x", "url": "http://127.0.0.1/", "filter": "nodes.a"}, "/filter"),
    ({"name": "x", "url": "http://127.0.0.1/", "filter": "1 + 1"}, "/filter"),
    ({"name": "x", "url": "http://127.0.0.1/", "secret": "whsec_c2hvcnQ="}, "/secret"),
    ({"name": "x", "url": "http://127.0.0.1/", "topic": "t"}, ""),
    ({"name": "x", "url": "http://127.0.0.1/", "allTenants": True}, ""),
    ({"name": "x", "url": "http://127.0.0.1/", "format": "xml"}, "/format"),
    ({"name": "x", "kind": "kafka", "format": "openlineage"}, ""),
    ({"name": "x", "url": "http://127.0.0.1/", "retry": {"maxAttempts": 0}}, "/retry/maxAttempts"),
    ({"name": "x", "url": "http://127.0.0.1/", "since": "2999-01-01T00:00:00Z"}, "/since"),
    ({"name": "x", "kind": "nats", "subject": "a.>"}, ""),
]


async def test_what_is_refused(api: Api) -> None:  # noqa: F811
    """Each with its JSON Pointer, and nothing is made."""
    for body, pointer in REFUSED:
        found = problem(await api("POST", PATH, json=body, as_=("acme", "admin")), 422)
        assert [one["pointer"] for one in found["problems"]] == [pointer], (body, found)
    assert (await api.get(PATH))["items"] == []


async def test_brokers_take_an_admin(
    api: Api,  # noqa: F811
    made: Callable[..., Awaitable[dict[str, Any]]],
) -> None:
    """Not only to make such a subscription, but also to change it."""
    body = {"name": "bus", "kind": "kafka", "allTenants": True}
    problem(await api("POST", PATH, json=body), 403)
    response = await api("POST", PATH, json=body, as_=("acme", "admin"))
    one = response.json()
    assert (one["topic"], one["secret"], one["allTenants"]) == ("execution-events", None, True)
    problem(await api("POST", f"{PATH}/{one['subscriptionId']}/pause"), 403)
    problem(await api("DELETE", f"{PATH}/{one['subscriptionId']}"), 403)
    problem(await api("POST", f"{PATH}/{one['subscriptionId']}/rotate-secret", as_=("acme", "admin")), 409)


async def test_failures_are_seen_dead_letters_redelivered_and_runs_replayed(
    api: Api,  # noqa: F811
    made: Callable[..., Awaitable[dict[str, Any]]],
    site: Site,
    receiving: Receiving,
) -> None:
    ill = True

    async def answer(request: Received) -> bytes:
        return status(503 if ill and request.event["type"] == "PLAN_STARTED" else 200)

    receiver = await receiving(answer)
    one = await made(receiver.url, retry={"maxAttempts": 2, "initialDelay": "20ms", "maxDelay": "20ms"})
    path = f"{PATH}/{one['subscriptionId']}"
    async with site.publishing():
        run, _ = await site.run(3)
        await receiver.until(2)
        async with asyncio.timeout(PATIENCE):
            while (found := await api.get(path))["progress"]["waitingRuns"]:
                await asyncio.sleep(0.02)
        assert (found["progress"]["deadLetters"], found["delivered"], found["failures"]) == (1, 2, 2)
        event_id = f"{run.run_id}/0/1"
        assert (found["lastFailure"]["reason"], found["lastFailure"]["eventId"]) == ("HTTP 503", event_id)
        (dead,) = (await api.get(f"{path}/dead-letters"))["items"]
        assert (dead["eventId"], dead["attempts"], dead["reason"]) == (event_id, 2, "HTTP 503")
        metrics = (await api("GET", "/metrics")).text
        labels = '{kind="webhook",subscription="one",tenant="acme"}'
        assert f"dalang_subscription_dead_letters{labels} 1.0" in metrics
        assert f"dalang_subscription_delivered{labels} 2.0" in metrics
        assert f"dalang_subscription_lag_seconds{labels} 0.0" in metrics
        ill = False
        answered = await api("POST", f"{path}/dead-letters/redeliver", json={"events": [event_id]})
        assert (answered.status_code, answered.json()) == (202, {"count": 1})
        assert numbers(await receiver.until(3), run) == [2, 3, 1]
        assert (await api("POST", f"{path}/replay", json={"runId": str(run.run_id)})).status_code == 202
        assert numbers(await receiver.until(6), run) == [2, 3, 1, 1, 2, 3]
        problem(await api("POST", f"{path}/replay", json={"runId": one["subscriptionId"]}), 404)
        problem(await api("POST", f"{path}/dead-letters/redeliver", json={"events": ["x"]}), 422)


async def test_a_ping_tells_what_came_of_it(
    api: Api,  # noqa: F811
    made: Callable[..., Awaitable[dict[str, Any]]],
    site: Site,
    receiving: Receiving,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a subscription that is paused; and without a publisher it says that nobody took it up."""
    code = 500

    async def answer(request: Received) -> bytes:
        return status(code)

    receiver = await receiving(answer)
    one = await made(receiver.url)
    path = f"{PATH}/{one['subscriptionId']}"
    monkeypatch.setattr(subscriptions, "PING_SECONDS", 0.3)
    response = await api("POST", f"{path}/ping")
    assert (response.status_code, response.json()["delivered"]) == (202, None)
    monkeypatch.setattr(subscriptions, "PING_SECONDS", 10.0)
    await api("POST", f"{path}/pause", json={"reason": "not yet"})
    async with site.publishing():
        found = (await api("POST", f"{path}/ping")).json()
        assert (found["delivered"], found["reason"]) == (False, "HTTP 500")
        code = 200
        found = (await api("POST", f"{path}/ping")).json()
        assert (found["delivered"], found["reason"]) == (True, None)
    ping = receiver.taken[-1]
    assert (ping.event["type"], ping.event["id"]) == ("PING", found["eventId"])
    assert verify(one["secret"], ping.headers, ping.body, time.time()) == found["eventId"]


async def test_secrets_change_without_a_gap(
    api: Api,  # noqa: F811
    made: Callable[..., Awaitable[dict[str, Any]]],
    site: Site,
    receiving: Receiving,
) -> None:
    """For a while a request carries both signatures; with keep 0 the old secret is worth nothing at once."""
    receiver = await receiving()
    one = await made(receiver.url)
    path = f"{PATH}/{one['subscriptionId']}"
    second = (await api("POST", f"{path}/rotate-secret")).json()["secret"]
    async with site.publishing():
        await site.run(1)
        (got,) = await receiver.until(1)
        for secret in (one["secret"], second):
            verify(secret, got.headers, got.body, time.time())
        third = (await api("POST", f"{path}/rotate-secret", json={"keep": "0s"})).json()["secret"]
        await site.run(1)
        got = (await receiver.until(2))[1]
        assert len(got.headers["webhook-signature"].split()) == 1
        verify(third, got.headers, got.body, time.time())


async def test_the_publisher_runs_in_a_worker(
    api: Api,  # noqa: F811
    app: FastAPI,  # noqa: F811
    made: Callable[..., Awaitable[dict[str, Any]]],
    receiving: Receiving,
) -> None:
    """A real run, from its first event to its last, with nothing else started."""
    from dalang.worker import worker

    receiver = await receiving()
    await made(receiver.url)
    async with worker(app.state.services.settings):
        run_id = await api.execute({"name": "hello", "nodes": [{"nodeId": "greet", "type": "noop"}]})
        await api.ended(run_id)
        async with asyncio.timeout(PATIENCE):
            while "PLAN_COMPLETED" not in [one.event["type"] for one in receiver.taken]:
                await asyncio.sleep(0.02)
    types = [one.event["type"] for one in receiver.taken]
    assert types == ["PLAN_VALIDATED", "PLAN_STARTED", "NODE_STARTED", "NODE_COMPLETED", "PLAN_COMPLETED"]
