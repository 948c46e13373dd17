"""Who may speak to a run: signatures of the API, approval tokens, and names that are only claimed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from dalang import wire
from dalang.authority import (
    DECIDES,
    PARENT_RUN,
    TOKEN_PREFIX,
    Approval,
    Authority,
    NotAuthenticated,
    approval_token,
    run_authority,
    signed_request,
)
from dalang.signing import Keyring, new_key

OLD, NEW, FOREIGN = (new_key() for _ in range(3))
KEYS = Keyring.read(OLD)
RUN = "11111111-1111-1111-1111-111111111111"
TASK = {"taskId": "t1", "action": "approve"}
DECIDE = wire.UPDATE_COMPLETE_TASK
UNTIL = 10_000
APPROVAL = Approval("acme", RUN, "t1", "d" * 64, "ann", ("ops",), UNTIL)


def authority(keys: Keyring = KEYS, *, required: bool = True, child: bool = False) -> Authority:
    return Authority("acme", RUN, run_authority(keys, required), child)


def refused(request: str, payload: Any, at: int = 0, of: Authority | None = None) -> str:
    with pytest.raises(NotAuthenticated) as found:
        (of or authority()).judged(request, payload, at)
    return str(found.value)


def test_what_the_api_signs_is_believed_and_nothing_of_it_can_be_changed() -> None:
    """The signature is of this run, this request, these words, until then; it is gone from what the run reads."""
    payload = {**TASK, "operator": "ann", "values": {"rate": 0.1, "of": [1.0, 2, None, "ä"]}}
    signed = json.loads(json.dumps(signed_request(KEYS, "acme", RUN, DECIDE, payload, UNTIL)))
    assert authority().judged(DECIDE, signed, UNTIL) == payload
    assert "expired" in refused(DECIDE, signed, UNTIL + 1)
    for changed in ({"operator": "bob"}, {"values": {"rate": 0.2}}, {"notes": "x"}):
        assert "wrong" in refused(DECIDE, signed | changed)
    assert "wrong" in refused(wire.UPDATE_CLAIM_TASK, signed)
    assert "wrong" in refused(DECIDE, {**signed, "authority": {**signed["authority"], "until": UNTIL + 1}})
    for tenant, run in (("globex", RUN), ("acme", RUN.replace("1", "2"))):
        assert "wrong" in refused(DECIDE, signed, of=Authority(tenant, run, run_authority(KEYS, True)))
    for bad in (5, {}, {"until": 1.5}, {"until": 2**60, "signatures": []}, {"until": 5, "signatures": 5}):
        refused(DECIDE, {**payload, "authority": bad})


@pytest.mark.parametrize("request_", DECIDES)
def test_where_it_is_required_nobody_decides_who_does_not_prove_himself(request_: str) -> None:
    """Neither a task, nor what could take the place of its decision."""
    assert "nobody knows who asks" in refused(request_, {**TASK, "operator": "ann"})


@pytest.mark.parametrize("required", [True, False])
def test_who_only_claims_a_name_is_recorded_so(required: bool) -> None:
    """Also where he may do it: the name is no forged one; the run above and schedules are no people."""
    of = authority(required=required)
    assert of.judged("pause", {"operator": "ann", "reason": "x"}, 0) == {
        "operator": "unauthenticated:ann",
        "reason": "x",
    }
    for payload in (None, {}):
        assert of.judged("pause", payload, 0) == {"operator": "unauthenticated"}
    assert of.judged("cancel", {"operator": "unauthenticated:ann"}, 0) == {"operator": "unauthenticated:ann"}
    assert of.judged("cancel", {"operator": "schedule:x"}, 0) == {"operator": "schedule:x"}
    assert of.judged("cancel", {"operator": PARENT_RUN}, 0) == {"operator": f"unauthenticated:{PARENT_RUN}"}
    assert authority(child=True).judged("cancel", {"operator": PARENT_RUN}, 0) == {"operator": PARENT_RUN}
    assert of.judged("external_event", {"name": "x"}, 0) == {"name": "x"}
    for odd in ([1], "x", 5, {"operator": 5}):
        assert of.judged("pause", odd, 0) == odd


def test_where_it_is_not_required_a_name_is_enough_to_decide() -> None:
    """As before, but recorded as what it is; a signature that is wrong is refused all the same."""
    of = authority(required=False)
    assert of.judged(DECIDE, {**TASK, "operator": "ann"}, 0)["operator"] == "unauthenticated:ann"
    foreign = signed_request(Keyring.read(FOREIGN), "acme", RUN, DECIDE, {**TASK, "operator": "ann"}, UNTIL)
    assert of.judged(DECIDE, foreign, 0)["operator"] == "unauthenticated:ann"
    own = signed_request(KEYS, "acme", RUN, DECIDE, {**TASK, "operator": "ann"}, UNTIL)
    refused(DECIDE, own | {"operator": "bob"}, of=of)


def test_runs_without_keys_believe_everybody() -> None:
    """Older runs mean what they meant; what a newer API adds is passed over."""
    of = Authority("acme", RUN, None)
    assert run_authority(Keyring(), False) is None
    assert of.judged(DECIDE, {**TASK, "operator": "ann"}, 0) == {**TASK, "operator": "ann"}
    assert of.judged("pause", {"operator": "ann", "authority": {"x": 1}}, 0) == {"operator": "ann"}
    assert of.judged("pause", None, 0) is None


def test_an_approval_token_is_for_one_person_one_task_as_it_was_shown_and_a_while() -> None:
    """It says who decides; it cannot be used for another task, another content, another name, or longer."""
    token = approval_token(KEYS, APPROVAL)
    given = {"action": "approve", "approvalToken": token, "groups": ["admins"]}
    made = authority().judged(DECIDE, given, UNTIL)
    assert made == {**TASK, "operator": "ann", "groups": ["ops"], "digest": "d" * 64}
    assert "expired" in refused(DECIDE, given, UNTIL + 1)
    for field in ("taskId", "digest", "operator"):
        assert field in refused(DECIDE, {**given, field: "other"})
    assert "another run" in refused(DECIDE, given, of=Authority("globex", RUN, run_authority(KEYS, True)))
    assert "nobody knows" in refused(wire.UPDATE_DELEGATE_TASK, {"taskId": "t1", "approvalToken": token})
    whole = json.loads(base64.urlsafe_b64decode(token.removeprefix(TOKEN_PREFIX) + "=="))
    for change in ({"subject": "bob"}, {"until": 2**40}, {"until": 2**60}, {"taskId": {"deep": 1}}):
        forged = {**whole, "approval": {**whole["approval"], **change}}
        text = TOKEN_PREFIX + base64.urlsafe_b64encode(json.dumps(forged).encode()).decode()
        assert "wrong" in (said := refused(DECIDE, {**given, "approvalToken": text})) or "damaged" in said
    deep = TOKEN_PREFIX + base64.urlsafe_b64encode(b'{"approval":' + b"[" * 9000 + b"]" * 9000 + b"}").decode()
    for broken in ("", 5, token[:-8], TOKEN_PREFIX + "ä", TOKEN_PREFIX, deep, TOKEN_PREFIX + "e30"):
        refused(DECIDE, {**given, "approvalToken": broken})
    # What is signed for other ends is no token: heads are signed by the same keys.
    head = {"kind": "dalang.head", "tenantId": "acme", "runId": RUN, "taskId": "t1", "digest": "d", "subject": "x"}
    other = {"approval": {**head, "until": UNTIL}, "signatures": KEYS.sign_all({**head, "until": UNTIL})}
    text = TOKEN_PREFIX + base64.urlsafe_b64encode(json.dumps(other).encode()).decode()
    assert "wrong" in refused(DECIDE, {**given, "approvalToken": text})


def test_keys_change_without_a_gap_as_long_as_the_old_one_signs_too() -> None:
    """A run trusts the keys of its beginning; a public key beside private ones is one that was replaced."""
    payload = {**TASK, "operator": "ann"}
    both, gone = Keyring.read(NEW + OLD), Keyring.read(NEW)
    before, after = authority(KEYS), authority(both)
    assert both.trusted.keys() == {KEYS.own_id, gone.own_id}
    for of, keys in ((before, both), (after, both), (after, KEYS), (after, gone)):
        assert of.judged(DECIDE, signed_request(keys, "acme", RUN, DECIDE, payload, UNTIL), 0) == payload
    assert "no key that the run knows" in refused(
        DECIDE, signed_request(gone, "acme", RUN, DECIDE, payload, UNTIL), of=before
    )
    public = Keyring.of_public(KEYS.public_keys)
    assert public.trusted == KEYS.trusted
    assert signed_request(public, "acme", RUN, DECIDE, payload, UNTIL) == payload
