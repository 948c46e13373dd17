"""What must not come in: each is refused with a place and a code, and nothing reaches Temporal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.world import Api, chain, problem

EXECUTE = "/orchestrator/execute"
PLANS = "/orchestrator/plans"


def _edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"sourceNodeId": source, "targetNodeId": target, **more}


def _plan(**changes: Any) -> dict[str, Any]:
    return {**chain("noop", "noop"), **changes}


BAD_PLANS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown field": (_plan(nodez=[]), "UNKNOWN_FIELD", "/nodez"),
    "wrong type": (_plan(maxInFlight=False), "WRONG_TYPE", "/maxInFlight"),
    "cycle": (_plan(edges=[_edge("n1", "n2"), _edge("n2", "n1")]), "CYCLE", "/nodes/0"),
    "edge to nowhere": (_plan(edges=[_edge("n1", "n9")]), "UNKNOWN_NODE", "/edges/0/targetNodeId"),
    "condition that does not compile": (
        _plan(edges=[_edge("n1", "n2", condition="outputs.score >")]),
        "BAD_EXPRESSION",
        "/edges/0/condition",
    ),
    "hostile expression": (
        _plan(edges=[_edge("n1", "n2", condition="[1,2,3].all(a, " * 40 + "true" + ")" * 40)]),
        "BAD_EXPRESSION",
        "/edges/0/condition",
    ),
    "unknown type": (_plan(nodes=[{"nodeId": "n1", "type": "teleport"}], edges=[]), "UNKNOWN_NODE_TYPE", "/nodes/0"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
async def test_a_bad_plan_is_refused_with_a_pointer(api: Api, name: str) -> None:
    """Execute and store answer 422 with code and JSON Pointer, validate says the same with 200; no run is made."""
    plan, code, pointer = BAD_PLANS[name]
    executed = problem(await api("POST", EXECUTE, json={"plan": plan}), 422)
    found = [(one["code"], one["pointer"]) for one in executed["problems"]]
    assert any(one == code and place.startswith("/plan" + pointer) for one, place in found), found
    stored = problem(await api("POST", PLANS, json=plan), 422)
    assert any(one["code"] == code and one["pointer"].startswith(pointer) for one in stored["problems"])
    checked = (await api("POST", f"{PLANS}/validate", json=plan)).json()
    assert not checked["valid"]
    assert code in [one["code"] for one in checked["problems"]]
    assert (await api.get("/orchestrator/runs"))["items"] == []
    assert (await api.get(PLANS))["items"] == []


async def test_all_problems_come_at_once(api: Api) -> None:
    """Not only the first."""
    plan = _plan(edges=[_edge("n1", "n9"), _edge("n1", "n2", condition=")")], failurePolicy="hope")
    found = problem(await api("POST", PLANS, json=plan), 422)["problems"]
    assert {"UNKNOWN_NODE", "BAD_EXPRESSION"} <= {one["code"] for one in found}
    assert len(found) >= 3


BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "malformed": (b'{"plan": ', "MALFORMED_JSON"),
    "not an object": (b"[1, 2]", "NOT_AN_OBJECT"),
    "empty": (b"", "EMPTY_DOCUMENT"),
    "not UTF-8": (b'{"a": "\xff"}', "NOT_TEXT"),
    "U+0000": (b'{"inputs": {"a": "\\u0000"}}', "NOT_JSON"),
    "lone surrogate": (b'{"inputs": {"a": "\\ud800"}}', "NOT_JSON"),
    "NaN": (b'{"inputs": {"a": NaN}}', "NOT_JSON"),
    "huge integer": (b'{"inputs": {"a": 1' + b"0" * 5000 + b"}}", "NOT_JSON"),
    "deep": (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "TOO_DEEP"),
    "duplicate key": (b'{"inputs": {}, "inputs": {"a": 1}}', "DUPLICATE_KEY"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_body_that_is_no_strict_json_is_refused(api: Api, name: str) -> None:
    """422 with a code, for requests and for plans."""
    body, code = BAD_BODIES[name]
    for path in (EXECUTE, PLANS):
        answer = problem(await api("POST", path, content=body, headers={"Content-Type": "application/json"}), 422)
        assert code in [one["code"] for one in answer["problems"]], answer


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "neither plan": ({}, "BAD_VALUE", ""),
    "both plans": ({"planId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11", "plan": {}}, "BAD_VALUE", ""),
    "unknown field": ({"plan": {}, "planid": 1}, "UNKNOWN_FIELD", "/planid"),
    "no UUID": ({"planId": "seven"}, "BAD_VALUE", "/planId"),
    "a number as UUID": ({"planId": 7}, "WRONG_TYPE", "/planId"),
    "a boolean as priority": ({"plan": {}, "priority": True}, "BAD_VALUE", "/priority"),
    "an unknown word as priority": ({"plan": {}, "priority": "urgent"}, "BAD_VALUE", "/priority"),
    "a list as inputs": ({"plan": {}, "inputs": []}, "WRONG_TYPE", "/inputs"),
    "a number as version": (
        {"planId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11", "planVersion": 1},
        "WRONG_TYPE",
        "/planVersion",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_requests_are_strict(api: Api, name: str) -> None:
    """Nothing is coerced and nothing unknown is passed over."""
    body, code, pointer = BAD_REQUESTS[name]
    answer = problem(await api("POST", EXECUTE, json=body), 422)
    assert (code, pointer) in [(one["code"], one["pointer"]) for one in answer["problems"]], answer
    if code == "UNKNOWN_FIELD":
        assert "there are planId, planVersion, plan, inputs" in answer["detail"], "it says what there is instead"


async def test_inputs_are_checked_against_the_plan(api: Api) -> None:
    """Pointers lead into the request."""
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    for inputs in ({}, {"size": "big"}):
        answer = problem(await api("POST", EXECUTE, json={"plan": _plan(inputs=schema), "inputs": inputs}), 422)
        assert answer["type"] == "urn:dalang:problem:invalid-inputs"
        assert all(one["pointer"].startswith("/inputs") for one in answer["problems"])
    assert (await api.get("/orchestrator/runs"))["items"] == []


async def test_too_large_is_413_before_it_is_parsed(api: Api) -> None:
    """A plan of 20 MB, declared or streamed, and a long body where a short one belongs."""
    plan = json.dumps(_plan(description="x" * 20 * 2**20)).encode()
    headers = {"Content-Type": "application/json"}
    for path in (EXECUTE, PLANS, f"{PLANS}/validate"):
        problem(await api("POST", path, content=plan, headers=headers), 413)

    async def parts() -> Any:
        for at in range(0, len(plan), 2**20):
            yield plan[at : at + 2**20]

    problem(await api("POST", PLANS, content=parts(), headers=headers), 413)
    run_id = await api.execute(chain("noop"))
    long = {"reason": "x" * 100_000}
    problem(await api("POST", f"/orchestrator/runs/{run_id}/pause", json=long), 413)
    problem(await api("POST", f"/orchestrator/runs/{run_id}/pause", json={"reason": "x" * 3_000}), 422)


async def test_100_001_nodes_are_refused(api: Api) -> None:
    """With the limit's own code."""
    nodes = ",".join(f'{{"nodeId":"n{at}","type":"noop"}}' for at in range(100_001))
    body = f'{{"name":"huge","nodes":[{nodes}]}}'.encode()
    answer = await api("POST", PLANS, content=body, headers={"Content-Type": "application/json"})
    assert "TOO_MANY_NODES" in [one["code"] for one in problem(answer, 422)["problems"]]


async def test_other_media_types_are_415(api: Api) -> None:
    """A body without one, too."""
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        headers = {"Content-Type": media} if media else {}
        for path in (EXECUTE, PLANS):
            problem(await api("POST", path, content=b"name: x", headers=headers), 415)


async def test_addresses_are_checked_too(api: Api) -> None:
    """Unknown addresses, wrong methods, ids that are none, parameters that are unknown or wrong."""
    problem(await api("GET", "/orchestrator/nothing"), 404)
    allowed = await api("DELETE", "/orchestrator/runs")
    problem(allowed, 405)
    assert allowed.headers["allow"] == "GET"
    allowed = await api("PUT", "/orchestrator/plans")
    problem(allowed, 405)
    assert allowed.headers["allow"] == "GET, POST"
    problem(await api("POST", "/docs"), 405)
    problem(await api("GET", "/orchestrator/runs/seven"), 422)
    for query in ("limit=0", "limit=9999", "limit=x", "status=GONE", "from=0.5", "colour=red", "cursor=!!!"):
        found = problem(await api("GET", f"/orchestrator/runs?{query}"), 422)
        assert "problems" in found or query.startswith("cursor")
    problem(await api("GET", "/orchestrator/plans?name=%00"), 400)
    problem(await api("GET", "/orchestrator/plans?name=%ff"), 400)
    problem(await api("GET", "/orchestrator/plans/%00"), 400)
