"""Runs and nodes as OpenLineage events (https://openlineage.io/spec/2-0-2/OpenLineage.json), for Marquez and the like.

A run, and each of its nodes, is a *run* of a *job* there: the job of a run is its plan, that of a node
``<plan>.<node>``, and the outputs of a node are the dataset ``<plan>.<node>.outputs``. Each event of ours that begins
or ends one of them is one of theirs, made of the event alone, so that subscriptions send the same as an export does. A
node is one run there however often it is begun, since its later events do not say which time it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from dalang import __version__
from dalang.cloud_events import PING
from dalang.event_types import EventType

SCHEMA_URL = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"urn:dalang:{__version__}"
_FACETS = "https://openlineage.io/spec/facets"
KINDS: Mapping[str, str] = {
    EventType.PLAN_STARTED: "START",
    EventType.PLAN_COMPLETED: "COMPLETE",
    EventType.PLAN_FAILED: "FAIL",
    EventType.PLAN_CANCELLED: "ABORT",
    EventType.NODE_STARTED: "START",
    EventType.NODE_COMPLETED: "COMPLETE",
    EventType.NODE_ERROR: "FAIL",
    EventType.NODE_FAILED: "FAIL",
    EventType.NODE_CANCELLED: "ABORT",
}
"""Events that have an OpenLineage event, with its eventType."""
Json = dict[str, Any]


def lineage_event(event: Mapping[str, Any], run: Mapping[str, Any], feeding: Sequence[str] = ()) -> Json | None:
    """Return the RunEvent for one of our events in wire form, or None where there is none.

    ``run`` has ``runId``, ``tenantId``, ``planName`` and, of a run below a node, ``parent`` (``runId``, ``nodeId``);
    ``feeding`` are the nodes whose outputs the node was given.
    """
    kind, node = KINDS.get(event["type"]), event.get("nodeId")
    if kind is None:
        return None
    plan, data = run["planName"], event.get("data") or {}
    name = plan if node is None else f"{plan}.{node}"
    namespace = f"dalang:{run['tenantId']}"
    facets: Json = {
        "processing_engine": _facet("1-1-1", "ProcessingEngineRunFacet", version=__version__, name="Dalang"),
        "dalang": _own(event, data, run),
    }
    parent = _parent(run, namespace, node)
    if parent is not None:
        facets["parent"] = parent
    if kind == "FAIL":
        error = (event.get("body") or {}).get("error") or {}
        message = str(error.get("message") or data.get("errorType") or "failed")
        facets["errorMessage"] = _facet("1-0-1", "ErrorMessageRunFacet", message=message, programmingLanguage="dalang")
    what = "RUN" if node is None else "NODE"
    job_type = _facet("2-0-3", "JobTypeJobFacet", processingType="BATCH", integration="DALANG", jobType=what)
    written = node is not None and kind == "COMPLETE"
    return {
        "eventTime": event["at"],
        "eventType": kind,
        "producer": PRODUCER,
        "schemaURL": SCHEMA_URL,
        "run": {"runId": run["runId"] if node is None else node_run_id(run["runId"], node), "facets": facets},
        "job": {"namespace": namespace, "name": name, "facets": {"jobType": job_type}},
        "inputs": [{"namespace": namespace, "name": f"{plan}.{one}.outputs"} for one in feeding],
        "outputs": [{"namespace": namespace, "name": f"{name}.outputs"}] if written else [],
    }


def of_cloud_event(event: Mapping[str, Any]) -> Json | None:
    """Return the RunEvent for one of our CloudEvents, or None where there is none; for the trial, one of no run."""
    data = event["data"]
    if event["type"] == PING:
        ping = {"id": event["id"], "type": EventType.PLAN_STARTED, "at": event["time"]}
        made = lineage_event(ping, {"runId": _uuid(event["id"]), "tenantId": event["tenant"], "planName": "ping"})
        return None if made is None else {**made, "eventType": "OTHER"}
    run = {"runId": data["runId"], "tenantId": event["tenant"], "planName": data["planName"]}
    told = {
        "id": f"{data['epoch']}.{data['seq']}",
        "type": event["type"],
        "nodeId": data["nodeId"],
        "at": event["time"],
    }
    return lineage_event({**told, "data": data.get("details"), "body": data.get("payload")}, run)


def _uuid(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def node_run_id(run_id: str, node_id: str) -> str:
    """Return the id that a node has as an OpenLineage run."""
    return str(uuid.uuid5(uuid.UUID(run_id), f"openlineage:{node_id}"))


def _parent(run: Mapping[str, Any], namespace: str, node: str | None) -> Json | None:
    above = run.get("parent")
    if node is not None:
        run_id, name = run["runId"], run["planName"]
    elif above:
        run_id, name = node_run_id(above["runId"], above["nodeId"]), above["nodeId"]
    else:
        return None
    job = {"namespace": namespace, "name": name}
    return _facet("1-1-0", "ParentRunFacet", run={"runId": run_id}, job=job)


def _own(event: Mapping[str, Any], data: Mapping[str, Any], run: Mapping[str, Any]) -> Json:
    """Return what only we know: in a facet of our own, as the specification wants it."""
    told = {key: data[key] for key in ("attempt", "agent", "worker", "made", "errorType") if data.get(key) is not None}
    own = {"_producer": PRODUCER, "_schemaURL": "urn:dalang:openlineage:run-facet"}
    return {**own, "runId": run["runId"], "eventId": event["id"], **told}


def _facet(at: str, facet: str, **fields: Any) -> Json:
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{at}/{facet}.json#/$defs/{facet}", **fields}
