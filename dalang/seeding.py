"""From the store to a seed: what a run that takes over from another one begins with.

The seed is made anew from what is stored whenever the run's workflow is to be started, so that a crash between the
run's row and its workflow loses nothing: what was asked for stands in the row (``origin``), and the old run has ended
and changes no more. Values that only the read model shows travel by reference: 10,000 kept nodes are a small input.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.canonical import pointer
from dalang.errors import Conflict, InvalidDocument, Problem
from dalang.program import Program
from dalang.revival import NOTHING, Choice, NothingToRedrive, Outcome, Revived, Told, choose, needed, revive
from dalang.statuses import NodeStatus
from dalang.store.engine import transaction
from dalang.store.outcomes import (
    StoredOutcome,
    by_reference,
    creators_of,
    list_outcomes,
    list_told,
    raw_values,
    resolved_values,
    undone_below,
    who_had_hands_in,
)
from dalang.store.runs import NewRun, Run

NODES_AT_ONCE = 500
"""So many nodes' values are in memory at once."""
SECONDS = 60.0


async def redrive_seed(
    engine: AsyncEngine, run: Run | NewRun, program: Program, about: Mapping[str, Any], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the seed of a redrive; ``origin`` as :class:`~dalang.redriving.Redrives` writes it.

    Raises:
        Conflict: what it begins with was erased meanwhile, or nothing would run.
        InvalidDocument: what was asked for does not fit the plan.
    """
    async with asyncio.timeout(SECONDS), transaction(engine, run.tenant_id) as conn:
        past = await Past.read(conn, run.tenant_id, UUID(origin["base"]), program)
        below = await undone_below(conn, run.tenant_id, past.run_id)
        outcomes = [_outcome(past.stored.get(node_id), origin.get("after"), below) for node_id in program.ids]
        choice = chosen(program, outcomes, origin)
        await past.take(conn, choice, needed(program, outcomes, choice))
        told, hands = await past.told(conn), await past.hands(conn)
        inputs = run.inputs or {}
        made = await asyncio.to_thread(revive, program, inputs, about, outcomes, choice, past.values, told, hands)
        facts = await past.facts(conn, made, choice, outcomes)
    data = {"redriveOf": str(run.redrive_of), "rootRunId": str(run.root_run_id)}
    return {"snapshot": made.snapshot, "raised": made.raised, "facts": facts, "data": data}


class Past:
    """What the nodes of a run have come to, read from the store as far as a new run needs it.

    ``values`` holds by node what it is made from, ``bodies`` by node what its facts tell, larger values by reference.
    ``lenient``: what is gone is left out; who reads knows it from elsewhere.
    """

    def __init__(self, tenant_id: str, run_id: UUID, program: Program, stored: Mapping[str, StoredOutcome]) -> None:
        self.tenant_id, self.run_id, self.program, self.stored = tenant_id, run_id, program, stored
        self.lenient = False
        self.values: dict[int, dict[str, Any]] = {}
        self.bodies: dict[int, dict[str, Any]] = {}

    @classmethod
    async def read(cls, conn: AsyncConnection, tenant_id: str, run_id: UUID, program: Program) -> Past:
        """Read what all nodes have come to, without values."""
        stored = {one.node_id: one for one in await list_outcomes(conn, tenant_id, run_id)}
        return cls(tenant_id, run_id, program, stored)

    async def take(self, conn: AsyncConnection, choice: Choice, parts: Sequence[tuple[str, ...]]) -> None:
        """Read the values of kept nodes, and of others what ``parts`` says."""
        ids, again = self.program.ids, choice.again
        wanted = [node for node, name in enumerate(ids) if name in self.stored and (parts[node] or not again[node])]
        for first in range(0, len(wanted), NODES_AT_ONCE):
            nodes = wanted[first : first + NODES_AT_ONCE]
            rows = [_read(self.stored[ids[node]], choice.again[node]) for node in nodes]
            raw = await raw_values(conn, self.tenant_id, self.run_id, rows)
            short = await by_reference(conn, self.tenant_id, [raw[one.node_id] for one in rows])
            self.bodies.update((node, body) for node, body in zip(nodes, short, strict=True) if not choice.again[node])
            read = {
                ids[node]: {part: value for part, value in raw[ids[node]].items() if part in parts[node]}
                for node in nodes
            }
            # A node that runs again makes its inputs anew where the recorded ones are gone.
            kept = {name: own for name, own in read.items() if not choice.again[self.program.index[name]]}
            whole = await resolved_values(conn, self.tenant_id, read, lenient=True)
            whole |= await resolved_values(conn, self.tenant_id, kept, lenient=self.lenient)
            self.values.update((node, whole[ids[node]]) for node in nodes)

    async def told(self, conn: AsyncConnection) -> list[Told]:
        """Read what the events say about what nodes that can be undone may have done."""
        program = self.program
        nodes = range(len(program.ids))
        undoable = [node for node in nodes if node in program.compensations or program.container(node) is not None]
        undoable_ids = [program.ids[node] for node in undoable if program.ids[node] in self.stored]
        found: list[Told] = []
        for first in range(0, len(undoable_ids), NODES_AT_ONCE):
            events = await list_told(conn, self.tenant_id, self.run_id, undoable_ids[first : first + NODES_AT_ONCE])
            bodies = {str(at): one.body for at, one in enumerate(events)}
            whole = await resolved_values(conn, self.tenant_id, bodies, lenient=self.lenient)
            found += [
                Told(program.index[one.node_id], one.type, one.data, whole[str(at)]) for at, one in enumerate(events)
            ]
        return found

    async def hands(self, conn: AsyncConnection) -> dict[str, list[str]]:
        """Read who had a hand in which node, for what four eyes forbid; whoever started a run had one in everything."""
        if "human" not in self.program.types:
            return {}
        hands = await who_had_hands_in(conn, self.tenant_id, self.run_id)
        for node, kept in self.bodies.items():
            if self.program.ids[node] in hands:
                kept["hands"] = hands[self.program.ids[node]]
        creators = await creators_of(conn, self.tenant_id, self.run_id)
        for node_id, kind in zip(self.program.ids, self.program.types, strict=True):
            if kind == "human":
                hands[node_id] = list(dict.fromkeys([*creators, *hands.get(node_id, ())]))
        return hands

    async def facts(
        self, conn: AsyncConnection, made: Revived, choice: Choice, outcomes: Sequence[Outcome]
    ) -> list[list[Any]]:
        """Return the facts with which the new run begins: node, data and body of each."""
        effects = {node: {"effects": own} for node, own in made.effects.items()}
        short = await by_reference(conn, self.tenant_id, effects.values())
        for node, body in zip(effects, short, strict=True):
            self.bodies.setdefault(node, {}).update(body)
        found: list[list[Any]] = []
        for node in sorted(self.bodies):
            one = NOTHING if choice.again[node] else outcomes[node]
            data = {
                "status": str(one.status),
                "generation": choice.generations.get(node),
                "skipReason": one.skip_reason,
            }
            known = {key: value for key, value in data.items() if value is not None}
            found.append([self.program.ids[node], known, self.bodies[node] or None])
        return found


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
    asked, carried = (
        {program.index[node_id]: own for node_id, own in some.items() if node_id in program.index}
        for some in (changes, origin.get("carried") or {})
    )
    try:
        choice = choose(program, outcomes, numbers, asked, carried)
    except NothingToRedrive as error:
        raise Conflict(f"There is nothing to redrive: {error}.") from None
    for node_id in changes:
        if not choice.again[program.index[node_id]]:
            message = f"Node {node_id!r} keeps its result, so its inputs cannot change; name it in `from`."
            problems.append(Problem(pointer=pointer("inputs", node_id), code="NODE_IS_KEPT", message=message))
    if problems:
        raise InvalidDocument(problems, "request")
    return choice


def _outcome(one: StoredOutcome | None, after: int | None, below: Container[str]) -> Outcome:
    if one is None:
        return NOTHING
    late = after is not None and one.revision > after
    status = NodeStatus(one.status)
    return Outcome(status, one.generation, one.started, one.skip_reason, late, one.node_id in below)


def _read(one: StoredOutcome, again: bool) -> StoredOutcome:
    """Return ``one`` with only those places that are read: of a node that runs again, its inputs."""
    if not again:
        return one
    return replace(one, places={part: place for part, place in one.places.items() if part == "inputs"})
