"""Provenance by REST: of a run with every kind of input, its redrive, runs below; as PROV-JSON and OpenLineage."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
from fastapi import FastAPI
from prov.model import ProvDocument

from dalang import provenance_near
from dalang.api import prov_export
from dalang.store import plan_pieces
from dalang.store.engine import transaction
from tests.api import world
from tests.api.world import Api, problem

RUNS = "/orchestrator/runs"
SCHEMAS = Path(__file__).parent.parent / "schemas"


def plan_of(name: str) -> dict[str, Any]:
    element = {"nodeId": "one", "type": "api-test-echo", "inputs": {"n": "${inputs.item}", "at": "${inputs.index}"}}
    inner = {
        "name": "inner",
        "inputs": {"properties": {"tone": {"default": "calm"}}},
        "nodes": [element | {"inputs": {"x": "${inputs.big}"}}],
    }
    return {
        "name": "every source",
        "nodes": [
            {"nodeId": "first", "type": "api-test-echo", "inputs": {"big": "x" * 20_000, "topic": "${inputs.topic}"}},
            {"nodeId": "each", "type": "map", "map": {"items": "${[1, 2]}", "body": element}},
            {"nodeId": "below", "type": "plan", "plan": inner},
            {
                "nodeId": "flaky",
                "type": "api-test-flaky",
                "retryPolicy": {"maxAttempts": 1},
                "inputs": {"name": name},
            },
            {
                "nodeId": "last",
                "type": "api-test-echo",
                "inputs": {"text": "attempt ${nodes.flaky.outputs.attempt}", "fixed": 1, "key": "secret://nobody"},
            },
        ],
        "edges": [
            {"edgeId": "a", "sourceNodeId": "first", "targetNodeId": "below", "condition": "outputs.topic == 'tea'"},
            {"edgeId": "b", "sourceNodeId": "below", "targetNodeId": "flaky", "mapping": {"none": "none"}},
            {
                "edgeId": "c",
                "sourceNodeId": "each",
                "targetNodeId": "last",
                "sourcePort": "succeeded",
                "targetPort": "n",
            },
            {"edgeId": "d", "sourceNodeId": "flaky", "targetNodeId": "last", "mapping": {"attempt": "attempt"}},
        ],
        "outputs": {"text": "${nodes.last.outputs.text}"},
    }


async def provenance(api: Api, run_id: str) -> dict[str, dict[str, Any]]:
    found = await api.get(f"{RUNS}/{run_id}/provenance")
    assert found["total"] == len(found["executions"])
    for one in found["executions"]:
        for source in (one.get("inputs") or {}).get("sources", ()):
            assert source["from"] != "unknown"
    return {"run": found, **{one["nodeId"]: one for one in found["executions"]}}


def froms(execution: dict[str, Any]) -> dict[str, str]:
    return {source["pointer"]: source["from"] for source in execution["inputs"]["sources"]}


async def near(api: Api, run_id: str, nodes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of a large run around a node says the same as all of it."""
    for node in nodes:
        address = f"{RUNS}/{run_id}/nodes/{node}/provenance"
        whole = await api.get(address)
        with monkeypatch.context() as patched:
            patched.setattr(provenance_near, "FROM_NODES", 0)
            patched.setattr(provenance_near, "BATCH", 1)
            patched.setattr(plan_pieces, "MANY", 0)
            assert await api.get(address) == whole
            few = await api.get(address, params={"limit": 1})
            problem(await api("GET", f"{RUNS}/{run_id}/nodes/nobody/provenance"), 404)
        assert (few["back"], few["forward"]) == (whole["back"][:1], whole["forward"][:1])
        assert few["truncated"] == (len(whole["back"]) > 1 or len(whole["forward"]) > 1)


async def by_pages(api: Api, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large run every page and every export is made of what it needs, and says the same as all of it."""
    address = f"{RUNS}/{run_id}/provenance"
    whole = [await api.get(address + form) for form in ("", "/prov", "/openlineage")]
    with monkeypatch.context() as patched:
        patched.setattr(provenance_near, "FROM_NODES", 0)
        patched.setattr(provenance_near, "LARGEST_BATCH", 2)
        patched.setattr(prov_export, "PAGE", 2)
        patched.setattr(plan_pieces, "MANY", 0)
        for limit in (1, 3, 100):
            pages = [await api.get(address, params={"limit": limit})]
            while pages[-1]["next"] is not None:
                pages.append(await api.get(address, params={"limit": limit, "cursor": pages[-1]["next"]}))
            assert {page["total"] for page in pages} == {None}
            told = {**pages[-1], "total": whole[0]["total"]}
            assert {**told, "executions": [one for page in pages for one in page["executions"]]} == whole[0]
        large = await api.get(address + "/prov")
        assert {kind: unnamed(records) for kind, records in large.items()} == {
            kind: unnamed(records) for kind, records in whole[1].items()
        }
        assert await api.get(address + "/openlineage") == whole[2]


def unnamed(records: dict[str, Any]) -> Any:
    """Return records without the numbers of relations, in the same order."""
    return [*records.values()] if next(iter(records)).startswith("_:") else records


@pytest.mark.usefixtures("working")
async def test_a_run_and_its_redrive(api: Api, app: FastAPI, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given, by whom and made by what; the redrive says what it kept, and runs below say what they are in."""
    name = uuid4().hex
    world.failing.add(name)
    old = await api.execute(plan_of(name), inputs={"topic": "tea"})
    await api.ended(old)
    world.failing.discard(name)
    async with AsyncExitStack() as others:  # who reads has one connection, and waits for no second
        for _ in range(settings.database_pool_size - 1):
            await others.enter_async_context(transaction(app.state.services.engine, "acme"))
        first = await provenance(api, old)
    assert froms(first["first"]) == {"/big": "literal", "/topic": "expression"}
    assert (first["first"]["build"], first["first"]["kind"]) == (settings.build_id, "work")
    assert first["first"]["implementation"]["coordinate"] == "tests.api.world:echo"
    assert first["first"]["implementation"]["digest"].startswith("sha256:")
    assert froms(first["below"]) == {"/big": "edge", "/topic": "edge", "/tone": "default"}
    assert first["flaky"]["failedAttempts"][0]["build"] == settings.build_id
    assert first["run"]["outputs"] is None
    error = (await api.get(f"{RUNS}/{old}/nodes/flaky"))["error"]
    around = await api.get(error["provenanceRef"])
    assert [one["nodeId"] for one in around["back"]] == []
    assert around["run"]["runId"] == old

    response = await api("POST", f"{RUNS}/{old}/redrive", json={})
    new = response.json()["runId"]
    run = await api.ended(new)
    assert run["status"] == "FAILED"  # of a secret that is not there, which is what a plan may name all the same
    second = await provenance(api, new)
    assert (second["first"]["kind"], second["first"]["keptFrom"]) == ("kept", old)
    assert second["run"]["redriveOf"] == old
    assert froms(second["last"]) == {
        "/text": "expression",
        "/fixed": "literal",
        "/key": "secret",
        "/n": "edge",
        "/attempt": "edge",
    }
    (secret,) = [one for one in second["last"]["inputs"]["sources"] if one["from"] == "secret"]
    assert secret["secrets"] == ["nobody"]
    around = await api.get(f"{RUNS}/{new}/nodes/last/provenance")
    assert {one["id"] for one in around["back"]} == {"flaky@1", "each@1"}
    assert not around["reachesOutputs"]
    problem(await api("GET", f"{RUNS}/{new}/nodes/nobody/provenance"), 404)

    for run_id in (old, new):
        await near(api, run_id, ["first", "each", "flaky", "last"], monkeypatch)
        await by_pages(api, run_id, monkeypatch)

    (child,) = first["each"]["childRuns"]
    below = await provenance(api, child)
    assert below["run"]["parent"] == {"runId": old, "nodeId": "each", "iteration": 0}
    assert below["0"]["inputs"]["sources"][0]["reads"] == [{"of": "inputs", "path": "/items/0"}]
    (child,) = first["below"]["childRuns"]
    assert (await provenance(api, child))["one"]["inputs"]["sources"][0]["expressions"] == ["inputs.big"]
    await exports(api, new)


async def exports(api: Api, run_id: str) -> None:
    """Both exports hold to their schemas; a PROV library reads what we write; pages of events are whole together."""
    document = await api.get(f"{RUNS}/{run_id}/provenance/prov")
    jsonschema.validate(document, json.loads((SCHEMAS / "prov-json.json").read_text()))
    read = ProvDocument.deserialize(content=json.dumps(document), format="json")
    kinds = {type(record).__name__ for record in read.get_records()}
    assert {"ProvActivity", "ProvEntity", "ProvAgent", "ProvUsage", "ProvGeneration", "ProvDerivation"} <= kinds
    assert {"ProvAssociation", "ProvCommunication"} <= kinds
    ends = ("prov:entity", "prov:activity", "prov:agent", "prov:usedEntity", "prov:generatedEntity", "prov:informant")
    named = {*document["entity"], *document["activity"], *document["agent"]}
    for relations in (part for name, part in document.items() if name not in ("prefix", "entity", "activity", "agent")):
        for relation in relations.values():
            assert {relation[end] for end in ends if end in relation} <= named

    schema = json.loads((SCHEMAS / "openlineage.json").read_text())
    events: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 7}
    while query.get("cursor", "") is not None:
        page = await api.get(f"{RUNS}/{run_id}/provenance/openlineage", params=query)
        events += page["events"]
        query["cursor"] = page["next"]
    for event in events:
        jsonschema.validate(event, schema, format_checker=jsonschema.FormatChecker())
    seen = [(event["eventType"], event["job"]["name"].removeprefix("every source")) for event in events]
    assert seen == [
        ("START", ""), ("START", ".flaky"), ("COMPLETE", ".flaky"), ("START", ".last"), ("FAIL", ".last"), ("FAIL", "")
    ]  # fmt: skip
    assert events[1]["run"]["facets"]["parent"]["run"]["runId"] == run_id
    assert [one["name"] for one in events[2]["outputs"]] == ["every source.flaky.outputs"]
    assert sorted(one["name"] for one in events[4]["inputs"]) == [
        "every source.each.outputs",
        "every source.flaky.outputs",
    ]
