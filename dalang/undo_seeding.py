"""The seed of a run that undoes what another one did: a terminated one (trap 12), or a finished one below a node.

What its nodes came to is read from the store, and from Temporal's history what the store was not told any more: an
activity that had been scheduled may have taken effect. What was in flight may be at work still, so its undo waits until
its handler's time is over. The new run begins in its end: nothing of the plan is started but ``finally`` nodes that had
not ended, and then the state machine's own compensation does what it would have done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client

from dalang.errors import Conflict, Unavailable
from dalang.lost_history import LostHistory, Seen, read_lost_history
from dalang.program import Program
from dalang.revival import KEPT_STATUSES, UNDONE, Choice, Ending, Outcome, Told, needed, revive
from dalang.seeding import SECONDS, Past
from dalang.statuses import NODE_ENDS, NodeStatus, RunStatus
from dalang.store.children import open_below
from dalang.store.engine import transaction
from dalang.store.outcomes import StoredOutcome, by_reference
from dalang.store.runs import NewRun, Run
from dalang.undoing import ENDS, UNHEARD_GRACE_MS
from dalang.wire import EventType


class NothingToUndo(Conflict):
    """The terminated run did nothing that its plan wants undone, and left no ``finally`` node."""


async def undo_seed(
    engine: AsyncEngine,
    client: Client,
    run: Run | NewRun,
    program: Program,
    about: Mapping[str, Any],
    origin: Mapping[str, Any],
    *,
    if_needed: bool = False,
) -> dict[str, Any]:
    """Return the seed of ``run``, which undoes the run that ``origin`` names.

    Raises:
        NothingToUndo: that, where the seed is only wanted ``if_needed``.
        Unavailable: a run below it is ending still, and undoes what it did.
        Conflict: what is needed was erased.
    """
    history = await read_lost_history(client, origin["workflow"], origin["execution"])
    async with asyncio.timeout(SECONDS), transaction(engine, run.tenant_id) as conn:
        base = UUID(origin["base"])
        if not if_needed and await open_below(conn, run.tenant_id, base):
            raise Unavailable(f"A run below run {base} has not ended yet; its own undo comes first.")
        past = await Past.read(conn, run.tenant_id, base, program)
        past.lenient = True
        lost = _Lost(program, past, history, await past.told(conn))
        choice, outcomes = lost.choice(), lost.outcomes
        await past.take(conn, choice, needed(program, outcomes, choice))
        await lost.put_values(conn, choice)
        ending = Ending(RunStatus(origin["ending"]), origin.get("error"), origin.get("reason"), lost.quiet)
        inputs = run.inputs or {}
        made = await asyncio.to_thread(
            revive, program, inputs, about, outcomes, choice, past.values, lost.told, {}, ending
        )
        wanted = made.effects and ending.status in ENDS[program.document.get("compensate")]
        if if_needed and not wanted and not any(choice.again):
            raise NothingToUndo("There is nothing to undo.")
        facts = await past.facts(conn, made, choice, outcomes)
    data = {"undoOf": str(run.undo_of), "rootRunId": str(run.root_run_id)}
    return {"snapshot": made.snapshot, "raised": [], "facts": facts, "data": data}


@dataclass
class _Lost:
    """What the store and the history know together, by node. ``quiet``: until when a handler may be at work."""

    program: Program
    past: Past
    history: LostHistory
    told: list[Told]
    outcomes: list[Outcome] = field(default_factory=list)
    quiet: dict[int, int] = field(default_factory=dict)
    _found: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._complete()
        for node_id in self.program.ids:
            one = self.past.stored.get(node_id)
            if one is None:
                self.outcomes.append(Outcome(NodeStatus.CANCELLED))
                continue
            status = NodeStatus(one.status)
            if status in (NodeStatus.COMPENSATING, NodeStatus.COMPENSATION_FAILED):
                status = NodeStatus.COMPENSATION_FAILED  # nobody decides about it any more: it is tried again
            elif status not in KEPT_STATUSES and status not in UNDONE:
                status = NodeStatus.CANCELLED
            self.outcomes.append(Outcome(status, one.generation, one.started, one.skip_reason))
        for seen in self.history.seen:
            node = self.program.index.get(seen.node_id)
            if node is not None and seen.undoes:
                self._saw_undo(node, seen)
            elif node is not None:
                self._saw(node, seen)

    def _complete(self) -> None:
        """Fill in from the history what the store has lost of large inputs and outputs.

        Raises:
            Conflict: the history has it neither.
        """
        known = {(one.node_id, one.generation): one for one in self.history.seen if not one.undoes}
        generations: dict[int, int] = {}
        for at, one in enumerate(self.told):
            part = {EventType.NODE_STARTED: "inputs", EventType.NODE_COMPLETED: "outputs"}.get(EventType(one.type))
            generation = generations[one.node] = one.data.get("generation", generations.get(one.node, 0))
            if part is None or part in one.body:
                continue
            seen = known.get((self.program.ids[one.node], generation))
            if seen is None:
                name = self.program.ids[one.node]
                raise Conflict(f"The {part} of node {name} are gone; what it did cannot be undone.")
            self.told[at] = replace(one, body={**one.body, part: getattr(seen, part)})

    def _saw(self, node: int, seen: Seen) -> None:
        before = self.outcomes[node]
        if before.status is not NodeStatus.CANCELLED and before.generation >= seen.generation:
            return  # the store has heard how it ended
        undoable = node in self.program.compensations
        if undoable and not self._is_told(node, EventType.NODE_STARTED, "generation", seen.generation):
            self._tell(node, EventType.NODE_STARTED, {"generation": seen.generation}, {"inputs": seen.inputs})
        status, body = NodeStatus.CANCELLED, {"inputs": seen.inputs}
        if seen.end == "completed":
            status, body = NodeStatus.SUCCESS, {**body, "outputs": seen.outputs}
            self._tell(node, EventType.NODE_COMPLETED, {}, {"outputs": seen.outputs})
        elif seen.end in ("failed", "lost"):
            status, body = NodeStatus.FAILED, {**body, "error": seen.error}
            self._tell(node, EventType.NODE_FAILED, {}, {"error": seen.error})
        if seen.end in (None, "lost"):
            self.quiet[node] = self._until(self.program.nodes[node]["timeouts"])
        elif seen.until is not None:
            self.quiet[node] = seen.until
        self.outcomes[node] = replace(before, status=status, generation=seen.generation, started=True)
        self._found[node] = body

    def _saw_undo(self, node: int, seen: Seen) -> None:
        if self._is_told(node, EventType.NODE_COMPENSATED, "undoes", seen.generation):
            return
        if seen.end == "completed":
            self._tell(node, EventType.NODE_COMPENSATED, {"undoes": seen.generation}, {})
            begun = {one.data.get("generation") for one in self.told if one.node == node and one.type == "NODE_STARTED"}
            done = {one.data["undoes"] for one in self.told if one.node == node and one.type == "NODE_COMPENSATED"}
            if begun <= done:
                self.outcomes[node] = replace(self.outcomes[node], status=NodeStatus.COMPENSATED)
        elif seen.end in (None, "lost"):
            self.quiet[node] = self._until(self.program.compensations[node]["timeouts"])

    def _until(self, timeouts: list[int]) -> int:
        return self.history.closed_at + timeouts[0] + UNHEARD_GRACE_MS

    def _is_told(self, node: int, kind: EventType, key: str, generation: int) -> bool:
        return any(one.node == node and one.type == kind and one.data.get(key, 0) == generation for one in self.told)

    def _tell(self, node: int, kind: EventType, data: dict[str, Any], body: dict[str, Any]) -> None:
        if node in self.program.compensations:
            self.told.append(Told(node, str(kind), data, body))

    def choice(self) -> Choice:
        """Return what the new run does: ``finally`` nodes that had not ended; all else is as it was."""
        first = self.program.first_finally
        again = [node >= first and one.status is NodeStatus.CANCELLED for node, one in enumerate(self.outcomes)]
        given = frozenset(node for node, one in enumerate(self.outcomes) if again[node] and one.started)
        generations = {node: one.generation for node, one in enumerate(self.outcomes) if one.generation}
        return Choice(again, generations, given)

    async def put_values(self, conn: AsyncConnection, choice: Choice) -> None:
        """Let what the history has shown stand beside what was stored."""
        short = await by_reference(conn, self.past.tenant_id, self._found.values())
        for (node, whole), body in zip(self._found.items(), short, strict=True):
            self.past.values[node] = {**self.past.values.get(node, {}), **whole}
            if not choice.again[node]:
                self.past.bodies[node] = {**self.past.bodies.get(node, {}), **body}


async def finished_seed(
    engine: AsyncEngine,
    tenant_id: str,
    run_id: UUID,
    program: Program,
    inputs: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the seed of a run that undoes ``run_id``, which has ended well: the store knows all of it.

    Raises:
        Conflict: what is needed was erased.
    """
    async with asyncio.timeout(SECONDS), transaction(engine, tenant_id) as conn:
        past = await Past.read(conn, tenant_id, run_id, program)
        past.lenient = True
        told = await past.told(conn)
        outcomes = [_ended(past.stored.get(node_id)) for node_id in program.ids]
        generations = {node: one.generation for node, one in enumerate(outcomes) if one.generation}
        choice = Choice([False] * len(outcomes), generations, frozenset())
        await past.take(conn, choice, needed(program, outcomes, choice))
        ending = Ending(RunStatus.CANCELLED, None, "the run above is undone")
        made = await asyncio.to_thread(
            revive, program, inputs, about, outcomes, choice, past.values, told, ending=ending
        )
        facts = await past.facts(conn, made, choice, outcomes)
    return {"snapshot": made.snapshot, "raised": [], "facts": facts, "data": {"undoOf": str(run_id)}}


def _ended(one: StoredOutcome | None) -> Outcome:
    status = NodeStatus.CANCELLED if one is None else NodeStatus(one.status)
    if one is None or status not in NODE_ENDS:
        return Outcome(NodeStatus.CANCELLED)
    return Outcome(status, one.generation, one.started, one.skip_reason)
