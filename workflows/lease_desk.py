"""Where a run asks for leases and gives them back: one activity for all that one pass of the loop wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from dalang.events import Ask, GiveBack, LeaseAnswered
    from dalang.run import Run
    from dalang.wire import ADMIT, AdmitInput, AgentRoute, LeaseAsk

GRACE_MS = 15 * 60_000
"""How much longer than its handler may take a node may hold its lease, as its activity may last."""
MAX_MS = 366 * 86_400_000
_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2, maximum_interval=timedelta(seconds=5)
)
_STATES = ("WAITING", "GRANTED", "REFUSED")


class LeaseDesk:
    """Asks for a run; ``answer`` takes what came of it."""

    def __init__(self, run: Run, run_id: str, tenant_id: str, answer: Callable[[LeaseAnswered], None]) -> None:
        self._run = run
        self._run_id = run_id
        self._tenant_id = tenant_id
        self._answer = answer
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is being asked for or given back at this moment."""
        return not self._calls

    def take(self, asks: Sequence[Ask], done: Sequence[GiveBack]) -> None:
        """Ask and give back, in one call; what is to be given back stays asked for until it is."""
        if not asks and not done:
            return
        request: AdmitInput = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "asks": [self._ask(one) for one in asks],
            "done": [{"nodeId": one.node_id, "ask": one.ask} for one in done],
        }
        call = asyncio.create_task(self._call(request))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def _ask(self, one: Ask) -> LeaseAsk:
        node = self._run.program.nodes[one.node]
        return {
            "nodeId": one.node_id,
            "ask": one.ask,
            "amounts": dict(one.needs["amounts"]),
            "capabilities": list(one.needs["capabilities"]),
            "priority": self._run.program.node_priority(one.node),
            "rank": self._run.program.ranks[one.node],
            "sticky": bool(one.needs["sticky"]),
            "lastsMs": node["timeouts"][0] + GRACE_MS,
        }

    async def _call(self, request: AdmitInput) -> None:
        answer: dict[str, Any] = await workflow.execute_activity(
            ADMIT,
            request,
            result_type=dict,
            start_to_close_timeout=timedelta(minutes=10),
            heartbeat_timeout=timedelta(seconds=5),
            retry_policy=_RETRY,
            summary=f"{len(request['asks'])} leases asked for, {len(request['done'])} given back",
        )
        for event in answered(answer):
            self._answer(event)

    async def close(self) -> None:
        """Wait until everything is given back."""
        while self._calls:
            await asyncio.wait(set(self._calls))


def answered(payload: Any) -> list[LeaseAnswered]:
    """Return the events of an answer, or of the signal with the same form.

    Raises:
        ValueError: it has another form.
    """
    if not isinstance(payload, Mapping) or not isinstance(payload.get("leases"), list):
        raise ValueError("the payload is {leases: [...]}")
    events = []
    for one in payload["leases"]:
        known = isinstance(one, Mapping) and isinstance(one.get("nodeId"), str) and one.get("state") in _STATES
        if not known or not isinstance(one.get("ask"), int) or isinstance(one.get("ask"), bool):
            raise ValueError("a lease has nodeId, ask and state")
        agent, reason, short = one.get("agent"), one.get("reason"), one.get("short") or ()
        if not all(isinstance(text, (str, type(None))) for text in (agent, reason)) or not isinstance(
            short, list | tuple
        ):
            raise ValueError("a lease's agent and reason are texts")
        route = route_of(one.get("route"))
        told = tuple(map(str, short))[:20]
        events.append(LeaseAnswered(one["nodeId"], one["ask"], one["state"], agent, told, reason, route))
    return events


def route_of(value: Any) -> AgentRoute | None:
    """Return where an agent's work is begun, as an answer has it.

    Raises:
        ValueError: it is no route.
    """
    if value is None:
        return None
    kinds = {"taskQueue": str, "activity": str, "heartbeatMs": int, "maxBytes": int}
    if not isinstance(value, Mapping) or not value.keys() <= kinds.keys():
        raise ValueError("a route has taskQueue, activity, heartbeatMs and maxBytes")
    for name, one in value.items():
        size = one if type(one) is int else len(one) if isinstance(one, str) else 0
        if type(one) is not kinds[name] or not 0 < size <= (MAX_MS if kinds[name] is int else 200):
            raise ValueError(f"{name} of a route is of no use")
    route: AgentRoute = {**value}  # type: ignore[typeddict-item]  # names and types were checked
    return route
