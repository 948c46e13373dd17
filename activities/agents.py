"""The activity ``agent``: a node goes to a function of this worker, or to an agent that asks for its work."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from dalang import tracing
from dalang.activities.a2a import A2A
from dalang.activities.execution import Deferred
from dalang.activities.patience import AWAY_SECONDS, patiently
from dalang.activities.python import LocalFunctions
from dalang.activities.secrets import Vault, reveal
from dalang.errors import ErrorType, SuggestedAction
from dalang.nodes import InvalidInput, NodeContext, NodeFailure
from dalang.store.agents import Agent, AgentKind, get_agent
from dalang.store.assignments import (
    CHANGED,
    Assignment,
    Look,
    look,
    mark_delivered,
    open_assignment,
    withdraw,
)
from dalang.store.engine import is_connection_error, transaction
from dalang.store.listening import Listener, woken
from dalang.usage import usage_of
from dalang.wire import NodeTask

LOOK_SECONDS = 10.0
"""How late it is noticed what no notification told."""
WITHDRAW_SECONDS = 5.0
ALIVE_SECONDS = 30
"""For how long an agent may say nothing about what it works at, if it is not said how often it is heard of."""

logger = logging.getLogger("dalang.activities.agents")


class AgentWork:
    """Does nodes that agents take. One per worker process."""

    def __init__(self, engine: AsyncEngine, listener: Listener, a2a: A2A, vault: Vault) -> None:
        self._engine = engine
        self._listener = listener
        self._a2a = a2a
        self._vault = vault

    async def work(self, ctx: NodeContext, task: NodeTask, name: str, local: LocalFunctions) -> Any:
        """Have the agent that the lease names do it."""
        agent = await patiently(self._engine, task["tenantId"], lambda conn: get_agent(conn, task["tenantId"], name))
        if agent is None:
            raise Deferred(f"agent {name} is not registered any more")
        if agent.kind == AgentKind.LOCAL:
            # All others are elsewhere, and the plan does not say who they are: they get references as they are.
            await reveal(ctx, task, self._vault)
            return await local.agent(ctx, agent.name)
        if agent.kind == AgentKind.POLL:
            return await self._assign(ctx, task, agent)
        if agent.kind == AgentKind.A2A:
            return await self._a2a.for_agent(ctx, agent.endpoint)
        # It was registered anew after it was granted.
        raise Deferred(f"agent {name} works on a task queue of its own by now")

    async def _assign(self, ctx: NodeContext, task: NodeTask, agent: Agent) -> Any:
        if task.get("callback"):
            raise InvalidInput("a node with a callback cannot go to an agent that asks for work", no_effect=True)
        seconds = agent.heartbeat_seconds or ALIVE_SECONDS
        given: dict[str, Any] = dict(task)
        if "memory" in task:
            given["memory"] = ctx.memory.wire()
        trace = tracing.traceparent()
        if trace is not None:
            given[tracing.TRACEPARENT] = trace
        one = await patiently(
            self._engine, task["tenantId"], lambda conn: open_assignment(conn, agent, given, seconds), run_may_come=True
        )
        with self._listener.waiting(CHANGED, str(one.assignment_id)) as wake:
            try:
                end = await self._ended(ctx, one, wake)
            except asyncio.CancelledError:
                await self._give_up(one, wake, "undoable" in task)
                raise
        if end.state == "WITHDRAWN":  # by whom else, if not by the erasure of its run
            raise Deferred(end.reason or "it was withdrawn")
        await patiently(self._engine, one.tenant_id, lambda conn: mark_delivered(conn, one.assignment_id))
        used = usage_of((end.outcome or {}).get("usage"))
        if used:
            ctx.usage(**used)
        return _outputs(end, one)

    async def _ended(self, ctx: NodeContext, one: Assignment, wake: asyncio.Event) -> Look:
        """Wait until the agent has said how it ended; give it up when it is silent for too long."""
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while True:
            now, trouble = await self._look(one)
            if trouble:
                # It may have had something to say, and nobody to say it to.
                heard_at = loop.time()
                await asyncio.sleep(AWAY_SECONDS)
                continue
            if now is None:
                raise Deferred("its assignment is gone")
            if now.state not in ("PENDING", "TAKEN"):
                return now
            if now.progress:
                ctx.progress(str(now.progress.get("message", "")), now.progress.get("fraction"))
            left = one.alive_seconds - min(now.silent_seconds, loop.time() - heard_at)
            if now.state == "PENDING":
                if not now.agent_takes and await self._withdrawn(one, "its agent is not there", None):
                    raise Deferred(f"agent {one.agent_id} is not there any more")
                left = LOOK_SECONDS
            elif left <= 0 and await self._withdrawn(one, "nothing was heard of its agent", one.alive_seconds):
                raise NodeFailure(
                    f"agent {one.agent_id} does not answer any more: it said nothing for {one.alive_seconds} s",
                    type=ErrorType.NETWORK_ERROR,
                    details={"agent": one.agent_id, "agentLost": True},
                )
            await woken(wake, min(max(left, 0.2), LOOK_SECONDS))

    async def _look(self, one: Assignment) -> tuple[Look | None, bool]:
        try:
            async with transaction(self._engine, one.tenant_id) as conn:
                return await look(conn, one.assignment_id), False
        except Exception as error:
            if not is_connection_error(error):
                raise
            return None, True

    async def _withdrawn(self, one: Assignment, reason: str, silent: float | None) -> bool:
        return await patiently(
            self._engine, one.tenant_id, lambda conn: withdraw(conn, one.assignment_id, reason, silent=silent)
        )

    async def _give_up(self, one: Assignment, wake: asyncio.Event, undoable: bool) -> None:
        """Withdraw what is not wanted any more, unless another attempt of this worker's successor goes on with it.

        Where its effect would be undone, wait until the agent knows, or must have given up.
        """
        details = activity.cancellation_details()
        if details is not None and not details.cancel_requested:
            return  # the worker ends, or Temporal has given this attempt to another one
        try:
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await self._withdrawn(one, "it is not wanted any more", None)
        except TimeoutError:
            logger.warning("the assignment %s could not be withdrawn", one.assignment_id)
            return
        waited = 0.0
        while undoable and waited < one.alive_seconds:
            now, _ = await self._look(one)
            if now is None or now.state != "WITHDRAWN" or now.told:
                return
            await woken(wake, 1.0)
            waited += 1.0


def _outputs(end: Look, one: Assignment) -> dict[str, Any]:
    """Return what an agent put out; raises the failure that it reported."""
    outcome = end.outcome or {}
    error = outcome.get("error")
    if error is None:
        return dict(outcome.get("outputs") or {})
    raise NodeFailure(
        str(error.get("message") or f"agent {one.agent_id} failed"),
        type=error.get("type", ErrorType.TOOL_ERROR),
        retryable=bool(error.get("retryable")),
        details=error.get("details") or {},
        suggested_action=SuggestedAction(error["suggestedAction"]) if error.get("suggestedAction") else None,
        no_effect=bool(error.get("noEffect")),
    )
