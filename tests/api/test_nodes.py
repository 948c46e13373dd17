"""Nodes of runs: all of the plan, whatever their ids, and the attempts that only Temporal knows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from fastapi import FastAPI

from dalang.store.engine import transaction
from dalang.store.node_logs import LogLine, keep_lines
from tests.api import world
from tests.api.world import Api, chain, problem
from tests.harness import PATIENCE

RUNS = "/orchestrator/runs"


@pytest.mark.usefixtures("working")
async def test_nodes_have_inputs_outputs_and_times(api: Api) -> None:
    """The list has them in plan order, one has everything."""
    plan = chain("api-test-echo", "noop")
    plan["nodes"][0] |= {"name": "The echo", "inputs": {"text": "${inputs.word}", "many": [1, 2.5, None]}}
    run_id = await api.execute(plan, inputs={"word": "hé"})
    await api.ended(run_id)
    page = await api.get(f"{RUNS}/{run_id}/nodes")
    assert [(one["nodeId"], one["status"]) for one in page["items"]] == [("n1", "SUCCESS"), ("n2", "SUCCESS")]
    assert (page["total"], page["next"], page["items"][0]["name"]) == (2, None, "The echo")
    node = await api.get(f"{RUNS}/{run_id}/nodes/n1")
    assert node["inputs"] == node["outputs"] == {"text": "hé", "many": [1, 2.5, None]}
    assert (node["attempt"], node["maxAttempts"], node["attempts"]) == (1, 3, [])
    assert node["startedAt"] <= node["completedAt"]


@pytest.mark.usefixtures("working")
async def test_large_outputs_are_filled_in(api: Api) -> None:
    """Not references to them."""
    plan = chain("api-test-echo")
    plan["nodes"][0]["inputs"] = {"text": "x" * 200_000}
    run_id = await api.execute(plan)
    await api.ended(run_id)
    assert len((await api.get(f"{RUNS}/{run_id}/nodes/n1"))["outputs"]["text"]) == 200_000


async def test_nodes_that_nothing_happened_to_are_there_too(api: Api) -> None:
    """PENDING, in pages, filtered by status and id; the picture shows them as well."""
    run_id = await api.execute(chain(*["noop"] * 25))
    address = f"{RUNS}/{run_id}/nodes"
    found, cursor = [], None
    while True:
        page = await api.get(address, params={"limit": 10, **({"cursor": cursor} if cursor else {})})
        found += [one["nodeId"] for one in page["items"]]
        assert {one["status"] for one in page["items"]} == {"PENDING"}
        cursor = page["next"]
        if cursor is None:
            break
    assert found == [f"n{at}" for at in range(1, 26)]
    filtered = await api.get(address, params={"status": ["PENDING", "FAILED"], "limit": 20})
    rest = await api.get(address, params={"status": "PENDING", "limit": 20, "cursor": filtered["next"]})
    assert (len(filtered["items"]), len(rest["items"]), rest["next"]) == (20, 5, None)
    assert (await api.get(address, params={"status": "SUCCESS"}))["items"] == []
    some = await api.get(address, params={"nodeId": ["n7", "n3", "x"]})
    assert [one["nodeId"] for one in some["items"]] == ["n3", "n7"]
    node = await api.get(f"{address}/n3")
    assert (node["status"], node["inputs"], node["attempt"]) == ("PENDING", None, 0)
    problem(await api("GET", f"{address}/n26"), 404)
    problem(await api("GET", address, params={"status": "LOST"}), 422)


IDS = ["a/b", "a b?c#d", "ünï/çødé", "100%", "..", "x/../y", "a+b&c=d", 'q"uote', "very/deep/path/"]


@pytest.mark.usefixtures("working")
async def test_node_ids_may_be_any_text(api: Api) -> None:
    """Percent-encoded in the address; where a client would normalise it, as a parameter."""
    nodes: list[dict[str, Any]] = [{"nodeId": one, "type": "noop"} for one in IDS]
    run_id = await api.execute({"name": "odd", "nodes": nodes})
    await api.ended(run_id)
    for one in IDS:
        node = await api.get(f"{RUNS}/{run_id}/nodes", params={"nodeId": one})
        assert (node["items"][0]["nodeId"], node["items"][0]["status"]) == (one, "SUCCESS")
        if ".." not in one:
            detail = await api.get(f"{RUNS}/{run_id}/nodes/{quote(one, safe='')}")
            assert detail["nodeId"] == one
    assert (await api.get(f"{RUNS}/{run_id}/nodes/a/b"))["nodeId"] == "a/b"


@pytest.mark.usefixtures("working")
async def test_a_node_that_is_retried_shows_the_live_attempt(api: Api) -> None:
    """RETRYING with number and failure of the last attempt, from Temporal; afterwards the attempts are recorded."""
    name = "retry"
    world.failing.add(name)
    plan = chain("api-test-flaky")
    policy = {"maxAttempts": 30, "backoffStrategy": "FIXED", "initialDelayMs": 300}
    plan["nodes"][0] |= {"inputs": {"name": name}, "retryPolicy": policy}
    run_id = await api.execute(plan)
    node = await api.reached(run_id, "n1", "RETRYING")
    assert node["live"]["attempt"] == node["attempt"] >= 2
    assert (node["live"]["lastFailure"]["type"], node["maxAttempts"]) == ("NETWORK_ERROR", 30)
    assert node["live"]["lastFailure"]["message"] == "the service is away"
    assert node["attempts"][0]["error"]["type"] == "NETWORK_ERROR"
    listed = await api.get(f"{RUNS}/{run_id}/nodes", params={"status": "RETRYING"})
    assert [one["nodeId"] for one in listed["items"]] == ["n1"]
    assert (await api.get(f"{RUNS}/{run_id}/nodes", params={"status": "RUNNING"}))["items"] == []
    world.failing.discard(name)
    async with asyncio.timeout(PATIENCE):
        await api.ended(run_id)
    node = await api.get(f"{RUNS}/{run_id}/nodes/n1")
    assert (node["status"], node["live"]) == ("SUCCESS", None)
    assert len(node["attempts"]) == node["attempt"] - 1


async def test_what_handlers_logged_is_listed(api: Api, app: FastAPI) -> None:
    """In order, of one node or of all, from either end; a page tells where the next begins."""
    run_id = await api.execute(chain("noop", "noop"))
    at = datetime(2026, 11, 22, tzinfo=UTC)
    lines = [LogLine(UUID(run_id), node, 0, 1, at, "INFO", "x", f"{node}{n}", None) for n in range(3) for node in "ab"]
    async with transaction(app.state.services.engine, "acme") as conn:
        assert await keep_lines(conn, "acme", lines) == []

    async def listed(**query: Any) -> list[str]:
        page = await api.get(f"/orchestrator/runs/{run_id}/logs", params=query)
        places.append(page["next"])
        return [item["message"] for item in page["items"]]

    places: list[Any] = []
    assert await listed(nodeId="a") == ["a0", "a1", "a2"]
    assert await listed(limit=4) == ["a0", "b0", "a1", "b1"]
    assert await listed(limit=4, after=places[-1]) == ["a2", "b2"]
    assert places == [None, places[1], None]
    assert await listed(newest=True, limit=2) == ["a2", "b2"]
    assert await listed(nodeId="b", before=places[1], newest=True, limit=1) == ["b0"]
