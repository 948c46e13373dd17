"""From the store to a seed: what a run that takes over from another one begins with.

The seed is made anew from what is stored whenever the run's workflow is to be started, so that a crash between the
run's row and its workflow loses nothing: what was asked for stands in the row (``origin``), and the old run has ended
and changes no more. Values that only the read model shows travel by reference: 10,000 kept nodes are a small input.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.canonical import pointer
from dalang.errors import Conflict, InvalidDocument, Problem
from dalang.program import Program
from dalang.revival import NOTHING, Choice, NothingToRedrive, Outcome, choose, needed, revive
from dalang.statuses import NodeStatus
from dalang.store.engine import transaction
from dalang.store.outcomes import StoredOutcome, by_reference, list_outcomes, raw_values, resolved_values
from dalang.store.runs import NewRun, Run

NODES_AT_ONCE = 500
"""So many nodes' values are in memory at once."""
SECONDS = 60.0


async def seed_of(engine: AsyncEngine, run: Run | NewRun, document: Mapping[str, Any], about: Mapping[str, Any]) -> Any:
    """Return the seed of a run, or None for one that begins with nothing.

    Raises:
        Conflict: what it begins with was erased meanwhile, or nothing would run.
        InvalidDocument: what was asked for does not fit the plan.
    """
    if run.redrive_of is None:
        return None
    origin: Mapping[str, Any] | None = run.origin
    if origin is None or run.inputs is None:
        raise Conflict("What the run begins with was erased.")
    program = await asyncio.to_thread(Program, document)
    async with asyncio.timeout(SECONDS), transaction(engine, run.tenant_id) as conn:
        return await redrive_seed(conn, run, program, about, origin)


async def redrive_seed(
    conn: AsyncConnection, run: Run | NewRun, program: Program, about: Mapping[str, Any], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the seed of a redrive; ``origin`` as :class:`~dalang.redriving.Redrives` writes it."""
    base = UUID(origin["base"])
    stored = {one.node_id: one for one in await list_outcomes(conn, run.tenant_id, base)}
    outcomes = [_outcome(stored.get(node_id), origin.get("after")) for node_id in program.ids]
    choice = chosen(program, outcomes, origin)
    parts = needed(program, outcomes, choice)
    facts: list[list[Any]] = []
    values: dict[int, dict[str, Any]] = {}
    wanted = [node for node, node_id in enumerate(program.ids) if node_id in stored and _is_read(node, choice, parts)]
    for first in range(0, len(wanted), NODES_AT_ONCE):
        nodes = wanted[first : first + NODES_AT_ONCE]
        rows = [_read(stored[program.ids[node]], node, choice) for node in nodes]
        raw = await raw_values(conn, run.tenant_id, base, rows)
        short = await by_reference(conn, run.tenant_id, [raw[one.node_id] for one in rows])
        for node, one, body in zip(nodes, rows, short, strict=True):
            if not choice.again[node]:
                facts.append([one.node_id, _data(one), body or None])
        whole = {
            one.node_id: {part: value for part, value in raw[one.node_id].items() if part in parts[node]}
            for node, one in zip(nodes, rows, strict=True)
        }
        whole = await resolved_values(conn, run.tenant_id, whole)
        values.update((node, whole[program.ids[node]]) for node in nodes)
    made = await asyncio.to_thread(revive, program, run.inputs, about, outcomes, choice, values)
    data = {"redriveOf": str(run.redrive_of), "rootRunId": str(run.root_run_id)}
    return {**made, "facts": facts, "data": data}


def chosen(program: Program, outcomes: Sequence[Outcome], origin: Mapping[str, Any]) -> Choice:
    """Return what runs again.

    Raises:
        Conflict: nothing does.
        InvalidDocument: a node is not in the plan, or inputs are changed of one that does not run again.
    """
    wanted, changes = origin.get("from"), origin.get("inputs") or {}
    problems = [
        Problem(pointer=f"/from/{at}", code="UNKNOWN_NODE", message=f"There is no node {node_id!r} in the run's plan.")
        for at, node_id in enumerate(wanted or ())
        if node_id not in program.index
    ]
    problems += [
        Problem(pointer=pointer("inputs", node_id), code="UNKNOWN_NODE", message=f"There is no node {node_id!r}.")
        for node_id in changes
        if node_id not in program.index
    ]
    if problems:
        raise InvalidDocument(problems, "request")
    numbers = None if wanted is None else [program.index[node_id] for node_id in wanted]
    try:
        choice = choose(program, outcomes, numbers, {program.index[node_id]: own for node_id, own in changes.items()})
    except NothingToRedrive as error:
        raise Conflict(f"There is nothing to redrive: {error}.") from None
    for node_id in changes:
        if not choice.again[program.index[node_id]]:
            message = f"Node {node_id!r} keeps its result, so its inputs cannot change; name it in `from`."
            problems.append(Problem(pointer=pointer("inputs", node_id), code="NODE_IS_KEPT", message=message))
    if problems:
        raise InvalidDocument(problems, "request")
    return choice


def _outcome(one: StoredOutcome | None, after: int | None) -> Outcome:
    if one is None:
        return NOTHING
    late = after is not None and one.revision > after
    return Outcome(NodeStatus(one.status), one.generation, one.started, one.skip_reason, late)


def _is_read(node: int, choice: Choice, parts: Sequence[tuple[str, ...]]) -> bool:
    return not choice.again[node] or bool(parts[node])


def _read(one: StoredOutcome, node: int, choice: Choice) -> StoredOutcome:
    """Return ``one`` with only those places that are read: of a node that runs again, its inputs."""
    if not choice.again[node]:
        return one
    return replace(one, places={part: place for part, place in one.places.items() if part == "inputs"})


def _data(one: StoredOutcome) -> dict[str, Any]:
    data = {"status": one.status, "generation": one.generation or None, "skipReason": one.skip_reason}
    return {key: value for key, value in data.items() if value is not None}
