"""Events of runs as CloudEvents 1.0: what goes out to webhooks, Kafka and NATS.

An event's ``id`` is ``runId/epoch/seq``: it never changes, so whoever gets one twice can tell. Its ``type`` is the
event's own (``NODE_FAILED``), its ``subject`` is the run or the node, ``time`` is the workflow's, and ``data`` carries
the fields of Wayang's ExecutionEvent (eventId, eventType, runId, planId, nodeId, timestamp, payload) and what else is
known. Extensions: ``tenant``, and ``partitionkey``, the run, whose events stay in order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dalang.canonical import compact_json

SPEC_VERSION = "1.0"
MEDIA_TYPE = "application/cloudevents+json"
DATA_TYPE = "application/json"
PING = "PING"
"""Type of the event that tries out a subscription; no event of a run."""
MAX_EVENT_BYTES = 256 * 1024
"""An event that is larger goes out without its payload, which the API still has."""

CloudEvent = dict[str, Any]
_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(\d{1,9})/(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of a run as it is stored, with what is known of its run.

    ``payload`` is what users put in: None when there is none, when it was not read, or when it was erased;
    ``has_payload`` tells that there was one.
    """

    run_id: UUID
    tenant_id: str
    epoch: int
    seq: int
    type: str
    node_id: str | None
    at: datetime
    recorded_at: datetime
    data: Mapping[str, Any]
    payload: Any
    has_payload: bool
    superseded: bool
    plan_id: UUID
    plan_name: str
    plan_version: str

    @property
    def id(self) -> str:
        """The event's id, everywhere and for ever."""
        return event_id(self.run_id, self.epoch, self.seq)


def event_id(run_id: UUID, epoch: int, seq: int) -> str:
    """Return the id of an event."""
    return f"{run_id}/{epoch}/{seq}"


def read_event_id(text: str) -> tuple[UUID, int, int] | None:
    """Return run, epoch and seq of an event's id, or None when it is none."""
    found = _ID.fullmatch(text)
    if found is None or int(found[2]) >= 2**31 or int(found[3]) >= 2**63:
        return None
    return UUID(found[1]), int(found[2]), int(found[3])


def cloud_event(event: Happened, source: str, *, payloads: bool) -> CloudEvent:
    """Return the event; with ``payloads`` its data has what users put in: inputs, outputs, errors."""
    run_id = str(event.run_id)
    subject = f"runs/{run_id}" if event.node_id is None else f"runs/{run_id}/nodes/{event.node_id}"
    data: dict[str, Any] = {
        "eventId": event.id,
        "eventType": event.type,
        "runId": run_id,
        "planId": str(event.plan_id),
        "planName": event.plan_name,
        "planVersion": event.plan_version,
        "nodeId": event.node_id,
        "timestamp": rfc3339(event.at),
        "epoch": event.epoch,
        "seq": event.seq,
        "details": dict(event.data),
    }
    if event.superseded:
        data["superseded"] = True
    if payloads:
        data["payload"] = event.payload
        if event.payload is None and event.has_payload:
            data["payloadErased"] = True
    return {**_attributes(event.id, source, event.type, subject, event.at, event.tenant_id, run_id), "data": data}


def ping_event(ping_id: str, source: str, tenant_id: str, subscription: str, at: datetime) -> CloudEvent:
    """Return the event that tries out a subscription."""
    subject = f"subscriptions/{subscription}"
    data = {"eventId": ping_id, "eventType": PING, "subscription": subscription, "timestamp": rfc3339(at)}
    return {**_attributes(ping_id, source, PING, subject, at, tenant_id, ping_id), "data": data}


def encode(event: CloudEvent) -> bytes:
    """Return the event as JSON (structured content mode); one that is too large without its payload."""
    return compact_json(bounded(event))


def bounded(event: CloudEvent) -> CloudEvent:
    """Return the event, or, when it is too large, what is left without payload and then without details."""
    for part in ("payload", "details"):
        if len(compact_json(event)) <= MAX_EVENT_BYTES:
            return event
        if event["data"].get(part) is not None:
            event = {**event, "data": {**event["data"], part: None, f"{part}Omitted": True}}
    return event


def binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Return the attributes by name, and the data alone as JSON (binary content mode)."""
    event = bounded(event)
    attributes = {name: value for name, value in event.items() if name not in ("data", "datacontenttype")}
    return attributes, compact_json(event["data"])


def rfc3339(at: datetime) -> str:
    """Return a time as CloudEvents write it: UTC, with milliseconds where there are any."""
    at = at.astimezone(UTC)
    text = at.isoformat(timespec="milliseconds" if at.microsecond else "seconds")
    return text.removesuffix("+00:00") + "Z"


def _attributes(
    id_: str, source: str, type_: str, subject: str, at: datetime, tenant_id: str, key: str
) -> dict[str, Any]:
    return {
        "specversion": SPEC_VERSION,
        "id": id_,
        "source": source,
        "type": type_,
        "subject": subject,
        "time": rfc3339(at),
        "datacontenttype": DATA_TYPE,
        "tenant": tenant_id,
        "partitionkey": key,
    }
