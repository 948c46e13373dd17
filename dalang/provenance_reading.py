"""The provenance of stored runs: plans, events and attempts read, and told to :class:`~dalang.provenance.Provenance`.

Large values stay where they are, but for as many as a budget allows: they cost certainty about conditions that read
them, and nothing else. What was made of a run is kept for as long as its head stays the same: a list is read by pages.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import NotFound
from dalang.launch import Prepared, about_of
from dalang.program import Program
from dalang.provenance import About, Execution, Happened, Provenance
from dalang.recently_used import RecentlyUsed
from dalang.store.events import Event, list_events
from dalang.store.nodes import list_attempts
from dalang.store.references import get_bodies, referred_digest, replaced
from dalang.store.revisions import list_revisions
from dalang.store.runs import Run, get_run

PAGE = 2_000
MAX_VALUE_BYTES = 32 * 1024 * 1024
"""So much of large values is looked at for one run."""
MAX_ATTEMPTS = 20_000
KEPT = 200_000
"""Nodes of the runs that are kept, and executions of them."""
Prepare = Callable[[AsyncConnection, str, str], Coroutine[Any, Any, Prepared]]


Position = tuple[int, int]
"""Of an event: epoch and seq."""


@dataclass(frozen=True)
class Part:
    """Executions in the order they began, and the event after which the rest did; None: these are the last.

    ``around`` has these, and at least those that gave to them.
    """

    executions: Sequence[Execution]
    following: Position | None
    around: Sequence[Execution]


@dataclass(frozen=True)
class Told:
    """A run and where everything in it came from, or a ``part`` of it."""

    run: Run
    provenance: Provenance
    part: Part | None = None

    def after(self, place: Position | None, limit: int) -> Part:
        """Return the executions that began after an event; of a part, that part."""
        if self.part is not None:
            return self.part
        executions = self.provenance.executions
        first = bisect_right(executions, place, key=began) if place is not None else 0
        page = executions[first : first + limit]
        return Part(page, began(page[-1]) if first + limit < len(executions) else None, executions)


def began(execution: Execution) -> Position:
    """Return the event with which an execution began."""
    epoch, _, seq = execution["startedEvent"].partition(".")
    return int(epoch), int(seq)


class Provenances:
    """Reads the provenance of runs; ``prepare`` compiles a stored plan."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._kept: RecentlyUsed[tuple[str, UUID, int, int], Told] = RecentlyUsed(KEPT, _size)

    async def get(self, conn: AsyncConnection, tenant_id: str, run_id: UUID) -> Told:
        """Return the provenance of a run.

        Raises:
            NotFound: there is no such run.
        """
        run = await get_run(conn, tenant_id, run_id)
        if run is None:
            raise NotFound(f"There is no run {run_id}.")
        key = tenant_id, run_id, run.head_epoch, run.head_seq

        async def make() -> Told:
            return Told(run, await self._read(conn, run))

        return await self._kept.made(key, make)

    async def _read(self, conn: AsyncConnection, run: Run) -> Provenance:
        programs = await self._programs(conn, run)
        first = next(iter(programs))
        provenance = await asyncio.to_thread(Provenance, about_run(run, first), programs.get)
        after: tuple[int, int] | None = None
        room = MAX_VALUE_BYTES
        while True:
            page = await list_events(
                conn, run.tenant_id, run.run_id, after=after, limit=PAGE, superseded=False, bodies=True
            )
            bodies, room = await with_values(conn, run.tenant_id, [event.body for event in page], room)
            told = [happened(event, body) for event, body in zip(page, bodies, strict=True)]
            await asyncio.to_thread(provenance.tell, told)
            if len(page) < PAGE:
                break
            after = page[-1].epoch, page[-1].seq
        provenance.forget_values()
        await add_attempts(conn, run, provenance)
        return provenance

    async def _programs(self, conn: AsyncConnection, run: Run) -> dict[str, Program | None]:
        """Return the programs of all plans that the run had, the first first; None for one that is gone."""
        digests = [one.plan_digest for one in await list_revisions(conn, run.tenant_id, run.run_id)]
        parent = None if run.parent_run_id is None else await self._below(conn, run)
        found: dict[str, Program | None] = {}
        for digest in digests or [run.plan_digest]:
            document = parent
            if document is None:
                try:
                    document = (await self._prepare(conn, run.tenant_id, digest)).program
                except NotFound:
                    document = None
            found[digest] = None if document is None else await asyncio.to_thread(Program, document, digest)
        return found

    async def _below(self, conn: AsyncConnection, run: Run) -> Mapping[str, Any] | None:
        """Return the program of a run below a node: that of the node's body, in the program above it."""
        assert run.parent_run_id is not None
        above = await get_run(conn, run.tenant_id, run.parent_run_id, resolved=False)
        for program in () if above is None else (await self._programs(conn, above)).values():
            node = None if program is None else program.index.get(run.parent_node_id or "")
            container = None if program is None or node is None else program.container(node)
            if container is not None and container.get("digest") == run.plan_digest:
                document: dict[str, Any] = dict(container["body"])
                return document if run.elements is None else {**document, "repeat": run.elements}
        return None


def _size(told: Told) -> int:
    return told.run.total_nodes + len(told.provenance.executions)


def about_run(run: Run, plan_digest: str) -> About:
    """Return what is known of a run that began with this plan."""
    origin = run.origin or {}
    changed: dict[str, dict[str, Any]] = {}
    for some in (origin.get("carried") or {}, origin.get("inputs") or {}):
        for node, own in some.items():
            changed[node] = {**changed.get(node, {}), **own}
    return About(
        run_id=str(run.run_id),
        inputs=run.inputs,
        about=about_of(run),
        plan_digest=plan_digest,
        redrive_of=None if run.redrive_of is None else str(run.redrive_of),
        undo_of=None if run.undo_of is None else str(run.undo_of),
        changed=changed,
        created_by=run.created_by,
    )


def happened(event: Event, body: Any) -> Happened:
    """Return an event as it is told again."""
    return Happened(event.id, event.type, event.node_id, event.at.isoformat(), event.data, body)


async def with_values(conn: AsyncConnection, tenant_id: str, bodies: list[Any], room: int) -> tuple[list[Any], int]:
    """Return bodies with large values filled in while there is room, and how much room is left."""
    wanted = set()
    for reference in (one for body in bodies for one in _large(body)):
        digest, size = referred_digest(reference), reference.get("size")
        if digest is None or not isinstance(size, int) or size > room:
            continue
        if digest not in wanted:
            room -= size
            wanted.add(digest)
    found = await get_bodies(conn, tenant_id, wanted)
    return ([replaced(body, found) for body in bodies] if found else bodies), room


def _large(body: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the references in a body, at its root or one level down: larger parts stand nowhere else."""
    if isinstance(body, Mapping):
        if "$ref" in body:
            yield body
        yield from (part for part in body.values() if isinstance(part, Mapping) and "$ref" in part)


async def add_attempts(
    conn: AsyncConnection, run: Run, provenance: Provenance, among: Collection[str] | None = None
) -> None:
    """Let executions tell of their failed attempts; one that never succeeded is known by the last of them."""
    by_work: dict[tuple[str, int], dict[str, Any]] = {
        (one["nodeId"], one.get("generation", 0)): one for one in provenance.executions if one["kind"] == "work"
    }
    for attempt in await list_attempts(conn, run.tenant_id, run.run_id, among=among, limit=MAX_ATTEMPTS):
        execution = by_work.get((attempt.node_id, attempt.generation))
        if execution is None:
            continue
        told = {"attempt": attempt.attempt, "worker": attempt.worker, **attempt.made}
        execution.setdefault("failedAttempts", []).append({**told, "errorType": attempt.error.get("type")})
        if execution["status"] != "SUCCESS":
            execution |= {key: value for key, value in told.items() if value}
