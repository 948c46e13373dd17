"""Events as CloudEvents, and the signatures of webhooks."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from cloudevents.core.formats.json import JSONFormat

from dalang.cloud_events import MAX_EVENT_BYTES, Happened, binary, cloud_event, encode, event_id, read_event_id
from dalang.event_filters import EventFilter
from dalang.expressions import ExpressionError
from dalang.webhook_signatures import BadSignature, new_secret, secret_key, signature, signed_headers, verify

RUN = UUID("018f6b1e-6f0e-7c11-9f57-2f6f3e0c9a10")
AT = datetime(2026, 11, 22, 9, 30, 0, 250_000, tzinfo=UTC)
EVENT = Happened(
    run_id=RUN,
    tenant_id="acme",
    epoch=1,
    seq=7,
    type="NODE_FAILED",
    node_id="deploy",
    at=AT,
    recorded_at=AT,
    data={"status": "FAILED"},
    payload={"error": {"type": "TIMEOUT"}},
    has_payload=True,
    superseded=False,
    plan_id=UUID(int=7),
    plan_name="release",
    plan_version="1.0.0",
)


def test_the_public_library_reads_it() -> None:
    """It validates every attribute by the specification."""
    event = JSONFormat().read(None, encode(cloud_event(EVENT, "/dalang", payloads=True)))
    assert (event.get_id(), event.get_type(), event.get_time()) == (f"{RUN}/1/7", "NODE_FAILED", AT)
    assert event.get_subject() == f"runs/{RUN}/nodes/deploy"
    assert event.get_extension("partitionkey") == str(RUN)


def test_payloads_only_where_they_are_wanted_and_still_there() -> None:
    assert "payload" not in cloud_event(EVENT, "/", payloads=False)["data"]
    erased = cloud_event(replace(EVENT, payload=None), "/", payloads=True)["data"]
    assert (erased["payload"], erased["payloadErased"]) == (None, True)
    never = cloud_event(replace(EVENT, payload=None, has_payload=False), "/", payloads=True)["data"]
    assert never["payload"] is None
    assert "payloadErased" not in never


@pytest.mark.parametrize("part", ["payload", "data"])
def test_what_is_too_large_goes_without(part: str) -> None:
    large = replace(EVENT, **{part: {"x": "ä" * MAX_EVENT_BYTES}})
    body = encode(cloud_event(large, "/", payloads=True))
    assert len(body) < MAX_EVENT_BYTES
    shown = json.loads(body)["data"]
    assert shown["payload"] is None
    assert shown["payloadOmitted"]
    assert ("detailsOmitted" in shown) == (part == "data")
    attributes, value = binary(cloud_event(large, "/", payloads=True))
    assert attributes["id"] == f"{RUN}/1/7"
    assert json.loads(value) == shown


def test_ids_are_read_as_they_are_written() -> None:
    assert read_event_id(event_id(RUN, 1, 7)) == (RUN, 1, 7)
    for wrong in ("", f"{RUN}/1", f"{RUN}/x/7", f"{RUN}/1/7/8", f"{RUN}/9999999999/7", f"{str(RUN).upper()}/1/7 "):
        assert read_event_id(wrong) is None


def test_signatures_are_those_of_standard_webhooks() -> None:
    """The example that the specification's libraries are tested with."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


def test_a_signature_is_worth_nothing_for_anything_else() -> None:
    """Another body, id, time or secret; too late; or nothing at all."""
    secret, other = new_secret(), new_secret()
    headers = signed_headers([other, secret], "a/0/1", 1_000_000, b"{}")
    assert verify(secret, headers, b"{}", 1_000_100) == "a/0/1"
    assert verify(other, headers, b"{}", 999_900) == "a/0/1"
    for changed, body, now in (
        ({}, b"{ }", 1_000_000),
        ({"webhook-id": "a/0/2"}, b"{}", 1_000_000),
        ({"webhook-timestamp": "1000001"}, b"{}", 1_000_000),
        ({"webhook-timestamp": "x"}, b"{}", 1_000_000),
        ({}, b"{}", 1_000_301),
        ({"webhook-signature": ""}, b"{}", 1_000_000),
        ({"webhook-signature": "v1,é"}, b"{}", 1_000_000),
    ):
        with pytest.raises(BadSignature):
            verify(secret, headers | changed, body, now)
    with pytest.raises(BadSignature):
        verify(new_secret(), headers, b"{}", 1_000_000)


@pytest.mark.parametrize("wrong", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_what_is_no_secret(wrong: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        secret_key(wrong)


def test_filters() -> None:
    event = cloud_event(EVENT, "/dalang", payloads=True)
    assert EventFilter('event.type == "NODE_FAILED" && event.data.payload.error.type == "TIMEOUT"').matches(event)
    assert EventFilter('event.subject.endsWith("/deploy")').matches(event)
    assert not EventFilter("event.data.epoch == 0").matches(event)
    assert not EventFilter("event.data.nothing").matches(event), "it has no value, so it does not hold"
    for wrong in ("event.", "1 + 1", "nodes.a == 1"):
        with pytest.raises(ExpressionError):
            EventFilter(wrong)
