"""Attempts of nodes behind circuit breakers: whom a node calls, whether it may now, and what its end says of him.

An attempt that may not begin is no attempt: its activity ends with the error type ``DEFERRED``, and the run begins the
node again when the breaker lets somebody try. Undos are never held up, since what is to be undone is worse for waiting,
but how they end counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from dalang.activities.checkpoints import received, used_before
from dalang.breaker import Outcome
from dalang.breakers import Passage
from dalang.errors import ErrorType
from dalang.llm_reasons import AWAY
from dalang.nodes import Registration, Registry
from dalang.store.breakers import MAX_KEY
from dalang.wire import DEFERRED, NodeTask, attempt_number

TRIAL_MARGIN_MS = 60_000
"""How much longer than its handler may take a trial holds its place: results wait for Postgres."""
MAX_WAIT_MS = 300_000
"""After so long at most a node asks again: an operator may have reset the breaker meanwhile."""
SPREAD = 0.1
"""Those who wait for one breaker come back over so much of the time they waited, and not all in one moment."""
MAX_SPREAD_MS = 3_000
logger = logging.getLogger("dalang.activities")
_PORTS = {"http": 80, "https": 443}
_COUNTED = (ErrorType.NETWORK_ERROR, ErrorType.TIMEOUT, ErrorType.RESOURCE_EXHAUSTED, ErrorType.LLM_ERROR)


class Gate(Protocol):
    """What decides; ``dalang.breakers.Breakers`` does."""

    async def ask(self, tenant_id: str, key: str, lasts_ms: int) -> Passage | int:
        """Return a passage, or until when to wait."""

    async def hear(self, passage: Passage, outcome: Outcome, error_type: str | None = None) -> None:
        """Take note of how an attempt ended."""


def breaker_key(task: NodeTask, known: Registry) -> str | None:
    """Return which breaker an attempt goes through; None: none.

    Nodes that send requests: the address without its path. ``mcp`` nodes: the server's name, else its address. ``llm``
    nodes: the model as they name it. Agents: the agent. Functions: as they were registered, else their name. A node
    that cannot work at all (no such function, no URL) calls nobody.
    """
    key = _key(task, known)
    return key[:MAX_KEY] if key is not None and key.isprintable() else None


def _key(task: NodeTask, known: Registry) -> str | None:
    kind = task["type"]
    implementation = task.get("implementation", {})
    if kind in ("http", "runtime-hub"):
        return _of_address(implementation["coordinate"] if "of" in implementation else task["inputs"].get("url"))
    if kind == "a2a":
        return _of_address(task["inputs"].get("url"), kind)
    if kind == "mcp":
        server = task["inputs"].get("server")
        if isinstance(server, str):
            return f"mcp {server}"
        return _of_address(server.get("url") if isinstance(server, Mapping) else None)
    if kind == "llm":
        return f"llm {task['inputs'].get('model') or 'default'}"
    if kind == "agent":
        if "agent" in task:  # of the registry
            return f"agent {task['agent']}"
        name = task.get("handler")
        found = known.find_agent(task.get("capabilities", ())) if name is None else known.agent(name)
        return None if found is None else _of_function(f"agent {found.name}", found, task)
    name = task.get("handler") or implementation.get("coordinate") if kind == "python" else kind
    registration = None if name is None else known.node(str(name))
    return None if registration is None else _of_function(registration.name, registration, task)


def _of_address(url: Any, kind: str = "http") -> str | None:
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{kind} {parts.scheme}://{host}:{port}"


def _of_function(key: str, registration: Registration, task: NodeTask) -> str | None:
    endpoint = registration.endpoint
    if endpoint is None:
        return key
    try:
        found = endpoint(task["inputs"]) if callable(endpoint) else endpoint
    except Exception:  # what is wrong with the inputs, the function itself tells better
        logger.info("the endpoint of %s could not be told", key, exc_info=True)
        return None
    return f"{key} {found}" if found else None


def outcome_of(error: Mapping[str, Any]) -> Outcome:
    """Return what a failed attempt's ErrorPayload says of whoever was called."""
    details = error.get("details")
    about = details if isinstance(details, Mapping) else {}
    status = about.get("status")
    if error.get("type") == ErrorType.LLM_ERROR and "reason" in about and about["reason"] not in AWAY:
        return Outcome.ANSWERED  # it is there, whatever it thinks of the question
    if error.get("type") in _COUNTED or (isinstance(status, int) and status >= 500):
        return Outcome.FAILED
    return Outcome.ANSWERED if isinstance(status, int) else Outcome.UNKNOWN


async def guarded(gate: Gate, key: str | None, task: NodeTask, attempt: Callable[[], Awaitable[Any]]) -> Any:
    """Run one attempt through its breaker.

    Raises:
        ApplicationError: of type DEFERRED when it may not begin now, else as ``attempt`` does.
    """
    if key is None:
        return await attempt()
    tenant_id = task["tenantId"]
    passage = Passage(tenant_id, key)
    if "undoes" not in task:
        answer = await gate.ask(tenant_id, key, task["startToCloseMs"] + TRIAL_MARGIN_MS)
        if isinstance(answer, int):
            raise _deferral(task, key, answer)
        passage = answer
    outcome, error_type = Outcome.UNKNOWN, None
    try:
        result = await attempt()
        outcome = Outcome.ANSWERED if "outputs" in result else Outcome.UNKNOWN
        return result
    except ApplicationError as error:
        payload = error.details[0] if error.details else {}
        outcome, error_type = outcome_of(payload), payload.get("type")
        raise
    finally:
        # A worker that drains, or a node that was stopped: the place is given back all the same.
        report = asyncio.ensure_future(gate.hear(passage, outcome, error_type))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(report)


def _deferral(task: NodeTask, key: str, until: int) -> ApplicationError:
    """Return the error that says: not begun, not before ``until``; with what earlier attempts came to."""
    info = activity.info()
    now = int(info.started_time.timestamp() * 1000)
    wait = min(max(until - now, 1), MAX_WAIT_MS)
    wait += round(random.uniform(0, min(wait * SPREAD, MAX_SPREAD_MS)))  # noqa: S311 - spreads load, guards nothing
    details = {
        "until": now + wait,
        "reason": "breaker",
        "short": [f"breaker {key}"],
        "attempts": attempt_number(task, info.attempt) - 1,
    }
    checkpoint, used = received(task, info), used_before(info)
    return ApplicationError(
        f"the circuit breaker {key} lets nobody through",
        details,
        *([checkpoint, used] if used else [] if checkpoint is None else [checkpoint]),
        type=DEFERRED,
        non_retryable=True,
        category=ApplicationErrorCategory.BENIGN,
    )
