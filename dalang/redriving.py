"""Redrive: a finished run is started again as a new run that keeps what has gone well."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.canonical import compact_json
from dalang.errors import Conflict, NotFound, Unavailable
from dalang.launch import Launcher
from dalang.statuses import RUN_ENDS
from dalang.store.engine import transaction
from dalang.store.outcomes import changed_inputs, current_plan_digest
from dalang.store.run_checkpoints import get_checkpoint, is_on_current_chain
from dalang.store.runs import LinkedRuns, NewRun, Run, get_run, linked_runs


@dataclass(frozen=True)
class RedriveRequest:
    """What shall run again. ``nodes`` None: what failed; ``inputs`` replace inputs of nodes that run again, by key.

    With the name of a ``checkpoint`` what came to its end after it runs again, too.
    """

    operator: str
    nodes: Sequence[str] | None = None
    inputs: Mapping[str, Mapping[str, Any]] | None = None
    checkpoint: str | None = None
    reason: str | None = None
    idempotency_key: str | None = None
    roles: frozenset[str] = frozenset()


class Redrives:
    """Starts finished runs again."""

    def __init__(self, engine: AsyncEngine, launcher: Launcher) -> None:
        self._engine = engine
        self._launcher = launcher

    async def redrive(self, tenant_id: str, run_id: UUID, wanted: RedriveRequest) -> Run:
        """Make the new run and start its workflow; one that is left without is started by the reconciler.

        Raises:
            NotFound: there is no such run.
            Conflict: it has not ended, was redriven before, or nothing would run again.
            InvalidDocument: a node is not in its plan.
            Denied: a policy forbids it.
        """
        async with transaction(self._engine, tenant_id) as conn:
            old = await get_run(conn, tenant_id, run_id)
            if old is None:
                raise NotFound(f"There is no run {run_id}.")
            links = await linked_runs(conn, tenant_id, run_id)
            base = await _base(conn, old, links)
            point = await _point(conn, old, base, wanted.checkpoint)
            digest = await current_plan_digest(conn, old)
            carried = await _carried(conn, old)
        prepared = await self._launcher.prepared_of(tenant_id, digest)
        new = _new_run(old, base, wanted, point)
        origin = {**(new.origin or {}), **({"carried": carried} if carried else {})}
        new = replace(new, plan_digest=digest, total_nodes=prepared.nodes, origin=origin)
        # Before the row: what is refused leaves no trace, and does not count as the run's one redrive.
        repeated = links.redriven_by is not None
        state = None if repeated else await self._launcher.state_of(new, prepared)
        run = await self._launcher.accept(new, roles=wanted.roles)
        try:
            if run.run_id == new.run_id:
                await self._launcher.start(run, prepared, state)
            else:
                await self._launcher.start(run)
        except Unavailable:
            pass  # the row is committed, so the run will happen
        async with transaction(self._engine, tenant_id) as conn:
            return await get_run(conn, tenant_id, run.run_id) or run


async def _base(conn: AsyncConnection, old: Run, links: LinkedRuns) -> UUID:
    """Return the run whose nodes say what has come of ``old``: its own, or those of the run that undid it."""
    if old.status not in RUN_ENDS:
        raise Conflict(f"redrive is not possible: the run is {old.status}.")
    if old.parent_run_id is not None:
        raise Conflict(f"Run {old.run_id} is below a node of run {old.parent_run_id}; redrive run {old.top_run_id}.")
    if old.undo_of is not None:
        raise Conflict(f"Run {old.run_id} undoes run {old.undo_of}; redrive that one.")
    if links.undone_by is None:
        return old.run_id
    undo = await get_run(conn, old.tenant_id, links.undone_by, resolved=False)
    if undo is None or undo.status not in RUN_ENDS:
        raise Conflict(f"redrive is not possible yet: run {links.undone_by} is still undoing it.")
    return undo.run_id


async def _carried(conn: AsyncConnection, old: Run) -> dict[str, dict[str, Any]]:
    """Return the inputs that operators have changed before, by node: when it was redriven, and by retries since."""
    origin = old.origin or {}
    changed: dict[str, dict[str, Any]] = {}
    for some in (origin.get("carried") or {}, origin.get("inputs") or {}, await changed_inputs(conn, old)):
        for node_id, own in some.items():
            changed[node_id] = {**changed.get(node_id, {}), **own}
    return changed


async def _point(conn: AsyncConnection, old: Run, base: UUID, name: str | None) -> int | None:
    """Return the number of the last event before the checkpoint."""
    if name is None:
        return None
    point = await get_checkpoint(conn, old.tenant_id, old.run_id, name)
    if point is None:
        raise NotFound(f"Run {old.run_id} has no checkpoint {name!r}.")
    if base != old.run_id:
        raise Conflict(f"What run {old.run_id} did was undone by run {base}; its checkpoints are of no use any more.")
    if not await is_on_current_chain(conn, point):
        raise Conflict(f"The run was reset to before its checkpoint {name!r}.")
    return point.seq


def _new_run(old: Run, base: UUID, wanted: RedriveRequest, after: int | None) -> NewRun:
    if old.inputs is None:
        raise Conflict("The inputs of the run were erased, so it cannot be started again.")
    asked = {"from": wanted.nodes, "inputs": wanted.inputs, "checkpoint": wanted.checkpoint, "reason": wanted.reason}
    asked = {key: value for key, value in asked.items() if value is not None}
    key = wanted.idempotency_key
    return NewRun(
        tenant_id=old.tenant_id,
        plan_id=old.plan_id,
        plan_name=old.plan_name,
        plan_version=old.plan_version,
        plan_digest=old.plan_digest,
        created_by=wanted.operator,
        total_nodes=old.total_nodes,
        inputs=old.inputs,
        metadata=old.metadata,
        priority=old.priority,
        idempotency_key=key,
        request_digest=None if key is None else hashlib.sha256(compact_json([str(old.run_id), asked])).hexdigest(),
        root_run_id=old.root_run_id or old.run_id,
        redrive_of=old.run_id,
        origin={**asked, "base": str(base), **({} if after is None else {"after": after})},
    )
