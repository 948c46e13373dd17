"""Who may speak to a run: what the API signs, the tokens it gives to approvers, and what a run makes of both.

Whoever reaches Temporal can send a run any signal or update, under any name. So the API signs what it sends, with the
keys of ``signing.py``, and a run carries the public keys that were trusted when it began (``state["authority"]``). A
request without a valid signature is one of ``unauthenticated:<the name it claims>``; where the run says ``required``,
it cannot decide anything (:data:`DECIDES`). An approver who works with the ``temporal`` command line asks the API for
an approval token, which is signed too: for one task, as it was shown, for one person, for a short time.

All of this is a function of the request, the run's state and the time, so a replay comes to the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dalang import wire
from dalang.canonical import MAX_INTEGER, canonical_bytes, compact_json, find_unsafe
from dalang.signing import Keyring, SignatureState

UNAUTHENTICATED = "unauthenticated"
"""Who it was when nobody knows; with ``:`` and a name, when somebody claimed that."""
PARENT_RUN = "parent run"
SCHEDULE = "schedule:"
"""Not people: the run above, and a schedule, which tell a run to pause, to resume, to end."""
TOKEN_PREFIX = "dalang_approval_"  # noqa: S105 - the beginning of tokens
MAX_TOKEN = 32 * 1024
MAX_SIGNATURES = 8

STOP_AND_GO = (wire.UPDATE_PAUSE, wire.UPDATE_RESUME, wire.UPDATE_CANCEL)
"""Open to whoever reaches Temporal: he could end the workflow anyway."""
OF_TASKS = (wire.UPDATE_COMPLETE_TASK, wire.UPDATE_CLAIM_TASK, wire.UPDATE_RELEASE_TASK, wire.UPDATE_DELEGATE_TASK)
IN_PLACE = (wire.UPDATE_RETRY_NODE, wire.UPDATE_SKIP_NODE, wire.UPDATE_REPLAN, wire.UPDATE_RAISE_BUDGET)
"""What could take the place of a decision: a human node that is skipped, or planned away, asks nobody."""
DECIDES = (*OF_TASKS, *IN_PLACE)


class NotAuthenticated(Exception):
    """The request does not prove who sends it; the text says what is wrong."""


@dataclass(frozen=True)
class Approval:
    """What an approval token says: this person may decide this task, as it was shown, until then (ms)."""

    tenant_id: str
    run_id: str
    task: str
    digest: str
    subject: str
    groups: tuple[str, ...]
    until: int

    def document(self) -> dict[str, Any]:
        """Return what is signed."""
        return {
            "kind": "dalang.approval",
            "tenantId": self.tenant_id,
            "runId": self.run_id,
            "taskId": self.task,
            "digest": self.digest,
            "subject": self.subject,
            "groups": list(self.groups),
            "until": self.until,
        }


def approval_token(keys: Keyring, approval: Approval) -> str:
    """Return the token, signed by every private key that is here: a run knows those of its beginning."""
    document = approval.document()
    whole = {"approval": document, "signatures": keys.sign_all(document)}
    return TOKEN_PREFIX + base64.urlsafe_b64encode(canonical_bytes(whole)).decode().rstrip("=")


def signed_request(
    keys: Keyring, tenant_id: str, run_id: str, request: str, payload: Mapping[str, Any], until: int
) -> dict[str, Any]:
    """Return ``payload`` with what proves that the API sends it; as it is, where there is no key to sign with."""
    signatures = keys.sign_all(_request_document(tenant_id, run_id, request, payload, until))
    return {**payload, "authority": {"until": until, "signatures": signatures}} if signatures else dict(payload)


def run_authority(keys: Keyring, required: bool) -> wire.RunAuthority | None:
    """Return what a run that begins now has to know; None: nothing is signed here, and everybody is believed."""
    return {"required": required, "keys": keys.trusted} if keys or required else None


def claimed(operator: str) -> str:
    """Return the name that somebody claims, or has proven, for a comparison with other names."""
    return operator.removeprefix(f"{UNAUTHENTICATED}:")


class Authority:
    """What one run knows of who may speak to it; without ``terms`` (older runs, no keys) everybody is believed."""

    def __init__(self, tenant_id: str, run_id: str, terms: wire.RunAuthority | None, is_child: bool = False) -> None:
        self._tenant_id, self._run_id, self._terms, self._is_child = tenant_id, run_id, terms, is_child
        self._keys = Keyring.of_public(terms["keys"]) if terms else Keyring()

    def judged(self, request: str, payload: Any, at: int) -> Any:
        """Return ``payload`` with the operator who is proven, or ``unauthenticated:`` and the name he claims.

        Raises:
            NotAuthenticated: a proof is given and is none; or there is none, and it would be needed.
        """
        given = payload if isinstance(payload, Mapping) else {}
        rest = {key: value for key, value in given.items() if key != "authority"}
        if self._terms is None:
            return rest if "authority" in given else payload
        if "approvalToken" in given and request == wire.UPDATE_COMPLETE_TASK:
            return self._with_token(rest, at)
        proof = given.get("authority")
        if proof is not None and self._proves(request, rest, proof, at):
            return rest
        if self._terms["required"] and request in DECIDES:
            needed = "an approval token, or " if request == wire.UPDATE_COMPLETE_TASK else ""
            raise NotAuthenticated(f"nobody knows who asks; it takes {needed}the API, dalang or the pages")
        return rest | self._unknown(request, rest) if payload is None or isinstance(payload, Mapping) else payload

    def _unknown(self, request: str, payload: Mapping[str, Any]) -> dict[str, str]:
        name = payload.get("operator")
        if name is None:
            return {"operator": UNAUTHENTICATED} if request in (*STOP_AND_GO, *IN_PLACE) else {}
        if not isinstance(name, str) or name == UNAUTHENTICATED or name.startswith(f"{UNAUTHENTICATED}:"):
            return {}
        if request in STOP_AND_GO and (name.startswith(SCHEDULE) or (self._is_child and name == PARENT_RUN)):
            return {}
        return {"operator": f"{UNAUTHENTICATED}:{name}"} if name else {"operator": UNAUTHENTICATED}

    def _proves(self, request: str, payload: Mapping[str, Any], proof: Any, at: int) -> bool:
        """Tell whether the API sent it; False where none of the keys is known here and none is needed."""
        if not isinstance(proof, Mapping) or type(proof.get("until")) is not int or abs(proof["until"]) > MAX_INTEGER:
            raise NotAuthenticated("authority is an object with until and signatures")
        document = _request_document(self._tenant_id, self._run_id, request, payload, proof["until"])
        state = self._state(document, proof.get("signatures"))
        if state is SignatureState.VALID:
            if at > proof["until"]:
                raise NotAuthenticated("it came too late: its signature has expired")
            return True
        assert self._terms is not None
        if state is SignatureState.UNKNOWN_KEY and not self._terms["required"]:
            return False
        raise NotAuthenticated(_REFUSALS[state].format("request"))

    def _with_token(self, payload: Mapping[str, Any], at: int) -> dict[str, Any]:
        document, signatures = _read_token(payload["approvalToken"])
        state = self._state(document, signatures)
        if state is not SignatureState.VALID or document.get("kind") != "dalang.approval":
            raise NotAuthenticated(_REFUSALS.get(state, _REFUSALS[SignatureState.WRONG]).format("approval token"))
        if (document["tenantId"], document["runId"]) != (self._tenant_id, self._run_id):
            raise NotAuthenticated("the approval token is for another run")
        if at > document["until"]:
            raise NotAuthenticated("the approval token has expired")
        rest = {key: value for key, value in payload.items() if key not in ("approvalToken", "groups")}
        for field, name in (("taskId", "taskId"), ("digest", "digest"), ("operator", "subject")):
            if rest.setdefault(field, document[name]) != document[name]:
                raise NotAuthenticated(f"the approval token is for another {field}")
        return {**rest, "groups": document["groups"]}

    def _state(self, document: Mapping[str, Any], signatures: Any) -> SignatureState:
        """Check a signature by a key that is known here, whichever of them that is."""
        found = SignatureState.UNKNOWN_KEY
        for signature in signatures[:MAX_SIGNATURES] if isinstance(signatures, list) else ():
            state = self._keys.check(document, signature) if isinstance(signature, str) else SignatureState.WRONG
            if state is SignatureState.VALID:
                return state
            if state is SignatureState.WRONG:
                found = state
        return found


_REFUSALS = {
    SignatureState.WRONG: "the {}'s signature is wrong",
    SignatureState.UNKNOWN_KEY: "the {} is signed by no key that the run knows; it trusts those of when it began",
}


def _request_document(
    tenant_id: str, run_id: str, request: str, payload: Mapping[str, Any], until: int
) -> dict[str, Any]:
    """Return what is signed of a request: it is good for this run, this request, this content, until then (ms)."""
    content = hashlib.sha256(compact_json(payload)).hexdigest()
    about = {"kind": "dalang.request", "tenantId": tenant_id, "runId": run_id}
    return {**about, "request": request, "payload": content, "until": until}


def _read_token(token: Any) -> tuple[dict[str, Any], Any]:
    if not isinstance(token, str) or not token.startswith(TOKEN_PREFIX) or len(token) > MAX_TOKEN:
        raise NotAuthenticated("approvalToken is a text that the API made for one task")
    encoded = token.removeprefix(TOKEN_PREFIX)
    try:
        whole = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        document, signatures = dict(whole["approval"]), whole["signatures"]
    except (binascii.Error, ValueError, TypeError, KeyError, RecursionError):
        document, signatures = {}, None
    if not document or find_unsafe(document) is not None:
        raise NotAuthenticated("the approval token is damaged")
    return document, signatures
