"""The chain of a run's events: what is hashed, how, and what becomes of a fact that cannot be stored.

An event's hash is ``SHA-256(JCS({runId, tenantId, epoch, seq, type, nodeId, at, data, bodyDigest}) + previousHash)``
in lower-case hexadecimal, where JCS is RFC 8785 and ``previousHash`` is appended as ASCII. What users put into an
event is in the body, of which the chain holds ``SHA-256(salt + JCS(body))``: without the salt, which is erased with
the body, nobody can find out a short body by trying. Events of the second version of the chain have ``audit`` in the
document, too: who did it, and how grave it is (``event_actors.py``). Only the flush computes hashes, once, from the
stored head (``recording.py``); ``verification.py`` is the only other reader of this file.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from dalang.canonical import canonical_bytes, find_unsafe, plain_json, quoted, safe_text
from dalang.redaction import Redaction
from dalang.wire import EventType, Fact, Head

EMPTY_HEAD: Head = {"epoch": 0, "seq": 0, "hash": ""}
SALT_BYTES = 16
REFUSED = "$refused"
"""Key of what stands in place of a value that could not be stored: ``{"$refused": {"digest": ..., "reason": ...}}``."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Transition(NamedTuple):
    """One fact in the form it is stored in; ``fact_digest`` recognises the same fact when it comes again.

    A named tuple, since there are two for every node. ``data_json`` and ``body_json`` are data and body in canonical
    JSON where that was at hand.
    """

    seq: int
    type: str
    node_id: str | None
    at: datetime
    data: dict[str, Any]
    body: dict[str, Any] | None
    salt: bytes = b""
    body_digest: str | None = None
    fact_digest: str = ""
    audit: dict[str, Any] | None = None
    """What ``event_actors.py`` stores of it, in the second version of the chain; None in the first."""
    data_json: str | None = None
    body_json: str | None = None


def to_time(milliseconds: int) -> datetime:
    """Return workflow time (milliseconds since 1970) as a time in UTC."""
    return _EPOCH + milliseconds * _MILLISECOND


def to_milliseconds(time: datetime) -> int:
    """Return a time as the milliseconds since 1970 that the chain hashes."""
    return (time - _EPOCH) // _MILLISECOND


def event_hash(
    run_id: UUID, tenant_id: str, epoch: int, event: Transition, body_digest: str | None, previous_hash: str
) -> str:
    """Return the hash of ``event`` in ``epoch`` after the event with ``previous_hash``."""
    if event.data_json is None:
        document = canonical_bytes(event_document(run_id, tenant_id, epoch, event, body_digest))
    else:
        document = _composed(run_id, tenant_id, epoch, event, body_digest).encode()
    return hashlib.sha256(document + previous_hash.encode("ascii")).hexdigest()


def _composed(run_id: UUID, tenant_id: str, epoch: int, event: Transition, body_digest: str | None) -> str:
    """Return the canonical JSON of :func:`event_document` around the data's, which is written already."""
    audit = "" if event.audit is None else f'"audit":{canonical_bytes(event.audit).decode() if event.audit else "{}"},'
    digest = "null" if body_digest is None else quoted(body_digest)
    node = "null" if event.node_id is None else quoted(event.node_id)
    return (
        f'{{"at":{to_milliseconds(event.at)},{audit}"bodyDigest":{digest},"data":{event.data_json},"epoch":{epoch},'
        f'"nodeId":{node},"runId":"{run_id}","seq":{event.seq},"tenantId":{quoted(tenant_id)},'
        f'"type":{quoted(event.type)}}}'
    )


def event_document(
    run_id: UUID, tenant_id: str, epoch: int, event: Transition, body_digest: str | None
) -> dict[str, Any]:
    """Return what is hashed of an event."""
    document = {
        "runId": str(run_id),
        "tenantId": tenant_id,
        "epoch": epoch,
        "seq": event.seq,
        "type": event.type,
        "nodeId": event.node_id,
        "at": to_milliseconds(event.at),
        "data": event.data,
        "bodyDigest": body_digest,
    }
    return document if event.audit is None else {**document, "audit": event.audit}


def salted_digest(salt: bytes, body: Any) -> str:
    """Return the digest of a body that the chain holds."""
    return hashlib.sha256(salt + canonical_bytes(body)).hexdigest()


def fact_digest(fact: Fact, salt: bytes) -> str:
    """Return what recognises ``fact``: it works for facts that canonical JSON refuses, and is salted like the body."""
    return hashlib.sha256(salt + _any_json(fact)).hexdigest()


def prepare(fact: Fact, refusal: str | None = None, redaction: Redaction | None = None) -> Transition:
    """Return ``fact`` as it will be stored, but for what ``event_actors.py`` tells of it.

    What may not cross into Postgres or canonical JSON is replaced by its digest and the reason, value by value, so
    that a status beside it survives. ``refusal`` is why the database refused the fact although nothing was found:
    then everything but the status is replaced. ``redaction`` takes out before what is not kept at all; the fact is
    still recognised by what it was.
    """
    if refusal is None and (plain := _prepared(fact, redaction)) is not None:
        return plain
    data, body, node_id = fact.get("data") or {}, fact.get("body"), fact.get("nodeId")
    if redaction is not None:
        body = redaction(body) if isinstance(body, Mapping) else body
        if isinstance(data, Mapping) and isinstance(data.get("reason"), str):
            data = {**data, "reason": redaction.text(data["reason"])}
    data = _without_unsafe(data, refusal)
    body = None if body is None else _without_unsafe(body, refusal)
    salt = b"" if body is None else secrets.token_bytes(SALT_BYTES)
    return Transition(
        seq=fact["seq"],
        type=safe_text(str(fact["type"]), 200),
        node_id=None if node_id is None else safe_text(str(node_id), 400),
        at=_time_of(fact.get("at")),
        data=data,
        body=body,
        salt=salt,
        body_digest=None if body is None else salted_digest(salt, body),
        fact_digest=fact_digest(fact, salt),
        audit={},
    )


def _prepared(fact: Fact, redaction: Redaction | None) -> Transition | None:
    """Return ``fact`` as it will be stored if nothing in it needs care: each part of it is serialised once."""
    seq, kind, at, data = fact["seq"], fact["type"], fact["at"], fact.get("data")
    body, node_id = fact.get("body"), fact.get("nodeId")
    if len(fact) != 4 + (body is not None) + (node_id is not None):
        return None
    if not (type(seq) is type(at) is int and type(data) is dict and (body is None or type(body) is dict)):
        return None
    if not (_is_name(kind, 200) and (node_id is None or _is_name(node_id, 400))):
        return None
    data_json, body_json = plain_json(data), None if body is None else plain_json(body)
    if data_json is None or (body_json is None and body is not None):
        return None
    if redaction is not None and not redaction.passes(data_json if body_json is None else body_json + data_json):
        return None
    salt, body_digest, with_body = b"", None, ""
    if body_json is not None:
        salt = secrets.token_bytes(SALT_BYTES)
        body_digest = hashlib.sha256(salt + body_json.encode()).hexdigest()
        with_body = f'"body":{body_json},'
    if data_json.isascii() and with_body.isascii():
        with_node = "" if node_id is None else f'"nodeId":{quoted(node_id)},'
        told = f'{{"at":{at},{with_body}"data":{data_json},{with_node}"seq":{seq},"type":{quoted(kind)}}}'
        recognised = hashlib.sha256(salt + told.encode()).hexdigest()
    else:
        recognised = fact_digest(fact, salt)
    when = _time_of(at)
    return Transition(seq, kind, node_id, when, data, body, salt, body_digest, recognised, {}, data_json, body_json)


def _is_name(value: Any, longest: int) -> bool:
    return type(value) is str and len(value) <= longest and value.isascii() and "\x00" not in value


def chain_gap(seq: int, at: datetime, stored: Head, claimed: Head) -> Transition:
    """Return the event that stands for events the database has lost; it takes the number of the last lost one."""
    data = {"stored": dict(stored), "claimed": dict(claimed)}
    fact: Fact = {"seq": seq, "type": EventType.CHAIN_GAP.value, "at": to_milliseconds(at), "data": data}
    return prepare(fact)


def _without_unsafe(part: Any, refusal: str | None) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return {REFUSED: _refused(part, "is no JSON object")}
    if refusal is None and find_unsafe(part) is None:
        return dict(part)
    safe: dict[str, Any] = {}
    for key, value in part.items():
        found = find_unsafe(value)
        reason = f"{found[0] or 'the value'} {found[1]}" if found else refusal
        keep = found is None and (refusal is None or key == "status")
        safe[safe_text(str(key), 200)] = value if keep else {REFUSED: _refused(value, reason or "")}
    return safe


def _refused(value: Any, reason: str) -> dict[str, str]:
    return {"digest": "sha256:" + hashlib.sha256(_any_json(value)).hexdigest(), "reason": safe_text(reason, 500)}


def _any_json(value: Any) -> bytes:
    """Return bytes that tell values apart, for values that are no JSON too (NaN, surrogates, any integer)."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=repr).encode()


def _time_of(at: Any) -> datetime:
    try:
        return to_time(at)
    except (TypeError, OverflowError):
        return _EPOCH
