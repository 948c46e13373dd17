"""What is noticed of requests for the second chain of a tenant: who was refused what, and who administered what.

It is seen where an answer begins, so that no route can forget it. What people may not decide is told by the one
function that all decisions end in (``task_decisions.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from starlette.datastructures import Headers
from starlette.types import Scope

from dalang.api.auth import DECIDERS, Principal
from dalang.api.observing import route_of
from dalang.store.system_events import SystemEventType
from dalang.system_log import Known, SystemLog

_ACTS = {
    "tokens": "tokens",
    "sessions": "sessions",
    "pools": "pools",
    "quotas": "quotas",
    "budgets": "budgets",
    "agents": "agents",
    "circuit-breakers": "circuit breakers",
    "schedules": "schedules",
    "subscriptions": "webhooks",
    "retention": "retention",
    "erasure": "erasure",
    "erasures": "erasure",
    "tenants": "tenants",
}
"""What is administered, by the word behind ``/orchestrator/``."""
_WORK = ("/heartbeat", "/poll", "/assignments/", "/ping", "/trigger")
"""What agents and schedules do all day is no administration."""
_RANKS = ("admin", "operator", "approver", "agent", "viewer")
_OF_RUNS_AND_TASKS = ("runId", "taskId")


def actor_of(who: Principal | None) -> dict[str, str]:
    """Return who asks as an event tells it: type, id, and the role that lets him do most."""
    if who is None:
        return {"type": "system", "id": "unknown"}
    role = next((role for role in _RANKS if role in who.roles), "none")
    return {"type": "agent" if role == "agent" else "human", "id": who.subject, "role": role}


async def notice(scope: Scope, status: int) -> None:
    """Note what an answer with this status means; an act of administration is recorded before it is answered."""
    if status < 300 and scope["method"] in ("GET", "HEAD"):
        return
    log: SystemLog | None = getattr(getattr(scope["app"].state, "services", None), "system", None)
    state = scope.get("state", {})
    who: Principal | None = state.get("who")
    if log is None:
        return
    route = route_of(scope)
    about = {"method": scope["method"], "route": route, "request": state.get("request_id", "")}
    if status == 401:
        _not_let_in(log, scope, about)
    elif who is None:
        return
    elif status == 403 and not ("{taskId}" in route and who.roles & DECIDERS):  # that is told where it is decided
        log.refused(SystemEventType.FORBIDDEN, Known(who.tenant_id), actor_of(who), about, f"{scope['method']} {route}")
    elif status == 404:
        _not_there(log, scope, who, about)
    elif status < 300:
        word = route.removeprefix("/orchestrator/").partition("/")[0]
        if word in _ACTS and not any(part in route for part in _WORK):
            told = {**_texts(scope.get("path_params", {})), **state.get("act", {}), "status": status}
            await log.acted(who.tenant_id, actor_of(who), {"what": _ACTS[word], **about, **told})


def _not_let_in(log: SystemLog, scope: Scope, about: Mapping[str, Any]) -> None:
    scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        known = Known(token_hash=hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest())
        actor = {"type": "human", "id": "unknown"}
        log.refused(SystemEventType.AUTHENTICATION_FAILED, known, actor, about, "token")


def _not_there(log: SystemLog, scope: Scope, who: Principal, about: Mapping[str, Any]) -> None:
    given = scope.get("path_params", {})
    ids = [_uuid(given[name]) for name in _OF_RUNS_AND_TASKS if name in given]
    found = tuple(one for one in ids if one is not None)
    if found:
        actor = {**actor_of(who), "tenant": who.tenant_id}
        told = {**about, **_texts(given)}
        log.refused(SystemEventType.FOREIGN_TENANT, Known(who.tenant_id, ids=found), actor, told, str(found[0]))


def _texts(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:200] for name, value in params.items()}


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None
