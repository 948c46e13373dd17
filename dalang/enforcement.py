"""Asking whether a run may start and a node may begin: the rules of a file, OPA, and the seeds' policy service.

All that are configured must allow it. What cannot be asked denies; only for nodes ``DALANG_POLICY_WHEN_AWAY`` may say
otherwise, as Wayang's adapter does. With nothing configured nothing is asked, and nothing is paid.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from dalang.errors import Denied
from dalang.metrics import POLICY
from dalang.policies import ALLOWED, NODE, RUN, Decision, Policy, denied_by, read_policy
from dalang.settings import Settings
from dalang.trust import trusted
from dalang.watched_file import WatchedFile

OPA, SERVICE = "opa", "policy-service"
"""Stand for a rule's name where the service does not give one."""
UNDEFINED = "opa-undefined"
MAX_NAME = 200

logger = logging.getLogger("dalang.policy")


def policy_file(path: Path) -> WatchedFile[Policy]:
    """Return the rules of a file; raises SettingsError when it cannot be read or has problems."""
    return WatchedFile("DALANG_POLICY_FILE", path, read_policy)


class _Away(Exception):
    """The service gave no answer that could be understood."""


class Enforcer:
    """Asks every configured policy. One per process."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when the policy file cannot be read or has problems, all of which it names."""
        self._file = policy_file(Path(settings.policy_file)) if settings.policy_file else None
        self._opa = settings.opa_url
        self._service = settings.policy_url
        self._nodes_when_away = settings.policy_when_away
        self._seconds = settings.policy_timeout_seconds
        self._client: httpx.AsyncClient | None = None

    @property
    def active(self) -> bool:
        """Whether there is anything to ask."""
        return bool(self._file or self._opa or self._service)

    async def check_run(self, subject: Mapping[str, Any]) -> Decision:
        """Ask whether a run may start; ``subject`` holds the variables of rules.

        Raises:
            Denied: it may not.
        """
        if not self.active:
            return ALLOWED
        decision = await self._decide(RUN, subject)
        if not decision.allowed:
            logger.warning(
                "run refused: tenant=%s plan=%s requester=%s rule=%s",
                subject.get("tenant"),
                subject.get("plan", {}).get("name"),
                subject.get("requester"),
                decision.rule,
            )
            raise Denied(denied_by(decision, "the run"), str(decision.rule), away=decision.away)
        return decision

    async def check_node(self, subject: Mapping[str, Any]) -> Decision:
        """Ask whether an attempt of a node may begin."""
        if not self.active:
            return ALLOWED
        decision = await self._decide(NODE, subject)
        if decision.away and self._nodes_when_away == "allow":
            return Decision(True, decision.rule, decision.message, away=True)
        return decision

    async def _decide(self, applies: str, subject: Mapping[str, Any]) -> Decision:
        decision = await self._asked(applies, subject)
        POLICY.labels(applies, "away" if decision.away else "allowed" if decision.allowed else "denied").inc()
        return decision

    async def _asked(self, applies: str, subject: Mapping[str, Any]) -> Decision:
        decided = ALLOWED
        if self._file is not None:
            decided = self._file.current().decide(applies, subject)
        for ask, address, name in ((self._ask_opa, self._opa, OPA), (self._ask_service, self._service, SERVICE)):
            if not address or not decided.allowed:
                continue
            try:
                said = await ask(applies, subject)
            except _Away as away:
                logger.warning("the policy service %s could not be asked: %s", name, away)
                return Decision(False, name, "The policy service does not answer.", away=True)
            decided = said if not said.allowed or decided.rule is None else decided
        return decided

    # -- services --------------------------------------------------------------------------------------------------

    async def _ask_opa(self, applies: str, subject: Mapping[str, Any]) -> Decision:
        """Ask for a document by OPA's Data API: true, or an object with ``allow``; undefined denies."""
        answer = await self._post(self._opa, {"input": {"applies": applies, **subject}})
        if "result" not in answer:
            return Decision(False, UNDEFINED, "The policy has no decision about it.")
        result = answer["result"]
        if not isinstance(result, dict):
            return Decision(result is True, OPA)
        return _told(result.get("allow") is True, result, OPA)

    async def _ask_service(self, applies: str, subject: Mapping[str, Any]) -> Decision:
        """Ask Wayang's policy service: ``/policy/validate/{execution,node}``."""
        asked: dict[str, Any] = {"tenantId": subject["tenant"]}
        if applies == RUN:
            asked["planId"] = subject["plan"]["id"]
        else:
            asked["nodeId"], asked["nodeType"] = subject["node"]["id"], subject["node"]["type"]
        asked["context"] = {name: value for name, value in subject.items() if name != "tenant"}
        what = "execution" if applies == RUN else "node"
        answer = await self._post(f"{self._service}/policy/validate/{what}", asked)
        if not isinstance(answer.get("allowed"), bool):
            raise _Away("its answer does not say `allowed`")
        about = answer.get("metadata")
        told = {"reason": answer.get("reason"), **(about if isinstance(about, dict) else {})}
        return _told(answer["allowed"], told, SERVICE)

    async def _post(self, address: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if self._client is None:
            # Not through the proxies of the environment: a policy service is near, and sees inputs.
            self._client = httpx.AsyncClient(timeout=self._seconds, trust_env=False, verify=trusted())
        for last in (False, True):
            try:
                response = await self._client.post(address, json=body)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                # A kept connection may have been closed meanwhile; a service that is slow is not asked again.
                if last or not isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
                    raise _Away(type(error).__name__) from None
                continue
            if response.status_code != httpx.codes.OK:
                raise _Away(f"it answered {response.status_code}")
            try:
                answer = response.json()
            except ValueError:
                raise _Away("its answer is no JSON") from None
            if not isinstance(answer, dict):
                raise _Away("its answer is no object")
            return answer
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.aclose()


def _told(allowed: bool, answer: Mapping[str, Any], default: str) -> Decision:
    rule, reason = answer.get("rule"), answer.get("reason") or answer.get("message")
    return Decision(
        allowed,
        rule[:MAX_NAME] if isinstance(rule, str) and rule else default,
        reason[:2000] if isinstance(reason, str) else "",
    )
