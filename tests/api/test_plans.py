"""Plans: stored once per version, read back, drawn."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.api.world import Api, chain, problem

PLANS = "/orchestrator/plans"
YAML = """
name: greet
nodes:
  - {nodeId: hello, type: noop}
  - {nodeId: "to/all", type: noop}
edges:
  - {sourceNodeId: hello, targetNodeId: "to/all"}
"""
AXON = {
    "name": "feature",
    "tasks": [
        {
            "id": "11111111-1111-4111-8111-111111111111",
            "name": "Implement",
            "type": "Development",
            "requirements": {"capabilities": ["code"]},
        }
    ],
    "dependencies": [],
}


async def _store(api: Api, plan: dict[str, Any], status: int = 201) -> dict[str, Any]:
    response = await api("POST", PLANS, json=plan)
    assert response.status_code == status, response.text
    stored: dict[str, Any] = response.json()
    return stored


@pytest.mark.parametrize(
    "media", ["application/yaml", "text/yaml", "application/json", "application/yaml; charset=utf-8"]
)
async def test_a_plan_is_stored_from_yaml_and_json(api: Api, media: str) -> None:
    """It is read back in wire form, and its id derives from its name, so both forms are one plan."""
    text = YAML
    if "json" in media:
        nodes = [{"nodeId": "hello", "type": "noop"}, {"nodeId": "to/all", "type": "noop"}]
        edges = [{"sourceNodeId": "hello", "targetNodeId": "to/all"}]
        text = json.dumps({"name": "greet", "nodes": nodes, "edges": edges})
    response = await api("POST", PLANS, content=text, headers={"Content-Type": media})
    assert response.status_code == 201, response.text
    stored = response.json()
    assert (stored["name"], stored["version"], stored["nodes"], stored["edges"]) == ("greet", "1.0.0", 2, 1)
    assert stored["warnings"] == []
    read = await api.get(response.headers["location"])
    assert [node["nodeId"] for node in read["plan"]["nodes"]] == ["hello", "to/all"]
    assert (read["digest"], read["createdBy"]) == (stored["digest"], "operator@acme")
    again = await api("POST", PLANS, content=YAML, headers={"Content-Type": "text/yaml"})
    assert (again.status_code, again.json()["digest"]) == (200, stored["digest"])


async def test_a_version_never_changes(api: Api) -> None:
    """The same content again is 200, other content 409, another version a second one, the highest first."""
    first = await _store(api, chain("noop", version="1.2.0"))
    await _store(api, chain("noop", version="1.2.0"), 200)
    problem(await api("POST", PLANS, json=chain("noop", "noop", version="1.2.0")), 409)
    await _store(api, chain("noop", "noop", version="1.10.0"))
    address = f"{PLANS}/{first['planId']}"
    versions = (await api.get(f"{address}/versions"))["items"]
    assert [one["version"] for one in versions] == ["1.10.0", "1.2.0"]
    assert (await api.get(address))["version"] == "1.10.0"
    assert (await api.get(f"{address}?version=1.2.0"))["nodes"] == 1
    problem(await api("GET", f"{address}?version=9"), 404)
    problem(await api("GET", f"{PLANS}/{uuid.uuid4()}"), 404)
    problem(await api("GET", f"{PLANS}/{uuid.uuid4()}/versions"), 404)


async def test_plans_are_listed_by_name_in_pages(api: Api) -> None:
    """Each plan once, filtered by a part of its name."""
    for name in ("beta", "alpha", "gamma", "Alphabet"):
        await _store(api, chain("noop", name=name))
    names, cursor = [], None
    while True:
        page = await api.get(PLANS, params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        names += [one["name"] for one in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert sorted(names) == ["Alphabet", "alpha", "beta", "gamma"]
    found = await api.get(PLANS, params={"name": "ALPHA"})
    assert {one["name"] for one in found["items"]} == {"alpha", "Alphabet"}


async def test_axon_workflows_are_read(api: Api) -> None:
    """`tasks` and `dependencies` become a plan; what is wrong with them has a pointer."""
    checked = (await api("POST", f"{PLANS}/validate", json=AXON)).json()
    assert checked["valid"], checked
    assert (await _store(api, AXON))["nodes"] == 1
    bad = {**AXON, "dependencies": [{"from": "x", "to": "y"}]}
    assert problem(await api("POST", PLANS, json=bad), 422)["problems"][0]["pointer"].startswith("/dependencies")


async def test_validate_says_everything_with_200(api: Api) -> None:
    """Valid with warnings, invalid, and not even a document."""
    nodes = [*chain("noop", "noop")["nodes"], {"nodeId": "alone", "type": "noop"}]
    warned = (await api("POST", f"{PLANS}/validate", json={**chain("noop", "noop"), "nodes": nodes})).json()
    assert (warned["valid"], [one["code"] for one in warned["problems"]]) == (True, ["ORPHAN"])
    headers = {"Content-Type": "text/yaml"}
    broken = (await api("POST", f"{PLANS}/validate", content="a: [", headers=headers)).json()
    assert (broken["valid"], broken["problems"][0]["code"]) == (False, "MALFORMED_YAML")
    assert (await api.get(PLANS))["items"] == []


async def test_plans_are_drawn(api: Api) -> None:
    """As SVG, Mermaid and DOT; a hostile name stays text, under a policy that runs nothing."""
    plan = chain("noop", "noop", name="<script>alert(1)</script>")
    address = f"{PLANS}/{(await _store(api, plan))['planId']}/graph"
    svg = await api("GET", address)
    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert "default-src 'none'" in svg.headers["content-security-policy"]
    assert "<script" not in svg.text
    assert 'data-node-id="n1"' in svg.text
    assert (await api("GET", f"{address}?format=mermaid")).text.startswith("flowchart")
    assert (await api("GET", f"{address}?format=dot")).text.startswith("digraph")
    problem(await api("GET", f"{address}?format=png"), 422)
