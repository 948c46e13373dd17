"""The flush: one batch of a run's facts becomes events, read model and a new head, in one transaction.

Theory of operation. The run's row is locked and its stored head compared with the head the workflow believes in:

- equal: the facts follow it.
- the facts are already there (an answer was lost, a late duplicate): nothing changes, their head is answered.
- otherwise the caller must be Temporal's current execution of the run, or it is refused. If the head it believes in is
  in the stored chain, the run was reset to that point: a new epoch begins there and what came after is marked as
  superseded. If it is not, the database has lost events (a restored backup): a new epoch begins with a CHAIN_GAP
  event that holds both heads.

A fact that Postgres or canonical JSON refuses is stored with its digest and the reason instead of its value
(``chain.prepare``): a run never hangs on one bad value. Errors of the connection are the caller's to repeat.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import any_, bindparam, delete, false, func, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import Text

from dalang.errors import Conflict, DalangError, NotFound
from dalang.event_actors import audit_of
from dalang.redaction import Redaction
from dalang.signing import Keyring, head_document
from dalang.store import chain, projection, references, stored_chain, usage
from dalang.store.chain import Transition
from dalang.store.children import row_of_child
from dalang.store.engine import is_connection_error, is_refused_value, transaction
from dalang.store.external_events import note_waits
from dalang.store.flush_statements import locked_run, node_rows, save_nodes, write
from dalang.store.projection import Row
from dalang.store.revisions import drop_superseded_revisions, note_revisions
from dalang.store.tables import execution_runs, node_executions, retired_runs, run_events
from dalang.store.task_rows import Tasks, fold_tasks_again, folded_tasks, save_tasks
from dalang.usage import WALL_TIME
from dalang.wire import Head, Recorded, RecordInput, RunIdentity

UNKNOWN_PLAN = "(unknown)"
"""Name of the plan of a run whose row was lost with a restored backup, or that was started past the API."""

_NO_PLAN = UUID(int=0)
_NO_KEYS = Keyring()


class NotCurrentExecution(Conflict):
    """The flush comes from an execution that Temporal has replaced (reset, terminated); what it says is void."""


class MalformedBatch(DalangError):
    """The facts of a batch do not follow its head one by one: a defect of the workflow; trying again is in vain."""


async def record(
    engine: AsyncEngine,
    request: RecordInput,
    *,
    temporal_run_id: str,
    workflow_id: str,
    is_current: Callable[[], Awaitable[bool]],
    keys: Keyring = _NO_KEYS,
    redaction: Redaction | None = None,
) -> Recorded:
    """Store the batch and return the head after it; storing it again changes nothing and answers the same.

    ``keys`` sign the head, if there are any; ``redaction`` takes out what is not kept. ``is_current`` asks Temporal
    whether the caller is the run's current execution; it is called only when the heads differ. Raises
    :class:`NotCurrentExecution`, :class:`MalformedBatch`, :class:`NotFound` (the run was deleted, or is another
    tenant's), and what the database raises when it is away.
    """
    first = request["head"]["seq"] + 1
    if [fact["seq"] for fact in request["facts"]] != list(range(first, first + len(request["facts"]))):
        raise MalformedBatch(f"The facts of a batch of run {request['runId']} do not follow event {first - 1}.")
    identity = {"temporal_run_id": temporal_run_id, "workflow_id": workflow_id}
    try:
        return await _flush(engine, request, identity, is_current, keys, redaction, one_by_one=False)
    except Exception as error:
        if is_connection_error(error) or not is_refused_value(error):
            raise
    return await _flush(engine, request, identity, is_current, keys, redaction, one_by_one=True)


async def _flush(
    engine: AsyncEngine,
    request: RecordInput,
    identity: dict[str, str],
    is_current: Callable[[], Awaitable[bool]],
    keys: Keyring,
    redaction: Redaction | None,
    *,
    one_by_one: bool,
) -> Recorded:
    run_id, tenant_id, claimed = UUID(request["runId"]), request["tenantId"], request["head"]

    def signed(head: Head) -> str | None:
        return keys.sign(head_document(tenant_id, run_id, head)) if head["seq"] else None

    async with transaction(engine, tenant_id) as conn:
        row = await _locked_run(conn, tenant_id, run_id, identity, request.get("identity"))
        stored: Head = {"epoch": row.pop("head_epoch"), "seq": row.pop("head_seq"), "hash": row.pop("head_hash")}
        flush = _Flush(conn, request, identity, stored, row, signed)
        if stored != claimed:
            known = await stored_chain.head_after(conn, run_id, request)
            if known is not None:
                return _answered(known, signed(known))
            if not request["facts"] and await stored_chain.has_event(conn, run_id, claimed):
                return _answered(claimed, signed(claimed))
            if not await is_current():
                raise NotCurrentExecution(
                    f"Execution {identity['temporal_run_id']} of run {run_id} is not the current one; "
                    f"its head {claimed['epoch']}.{claimed['seq']} is not the stored {stored['epoch']}.{stored['seq']}."
                )
            await flush.begin_epoch(claimed, stored, request)
        events = [chain.prepare(fact, redaction=redaction) for fact in request["facts"]]
        if not (one_by_one and events):
            await flush.store(events)
        for fact, event in zip(request["facts"], events, strict=True) if one_by_one else ():
            try:
                async with conn.begin_nested():
                    await flush.store([event])
            except Exception as error:
                if is_connection_error(error) or not is_refused_value(error):
                    raise
                await flush.store([chain.prepare(fact, f"the database refused it: {_short(error)}", redaction)])
        await flush.finish()
    return _answered(flush.head, flush.signature, flush.over)


def _answered(head: Head, signature: str | None, over: dict[str, Any] | None = None) -> Recorded:
    answer: Recorded = {"epoch": head["epoch"], "seq": head["seq"], "hash": head["hash"]}
    if signature is not None:
        answer["signature"] = signature
    if over is not None:
        answer["over"] = over
    return answer


class _Flush:
    """One flush under way: the head, the run's columns and the rows of nodes and tasks as they will be when it ends."""

    def __init__(
        self,
        conn: AsyncConnection,
        request: RecordInput,
        identity: Mapping[str, str],
        head: Head,
        run: Row,
        signed: Callable[[Head], str | None],
    ) -> None:
        self.conn, self.tenant_id, self.run_id = conn, request["tenantId"], UUID(request["runId"])
        self.created_by: str = run.pop("created_by")
        self.head, self.run = head, run
        self.signature: str | None = None
        self.over: dict[str, Any] | None = None
        self._reported = {**identity, "node_status_counts": request["counts"]}
        self._status, self._final, self._signed = request["status"], request["final"], signed
        self._is_new = not head["seq"]
        self._nodes: dict[str, Row] = {}
        self._tasks: Tasks = {}
        self._recount = False
        self._last_at: datetime | None = None
        self._has_budget = False

    async def store(self, events: Sequence[Transition]) -> None:
        """Store ``events`` after the head, and what follows from them; on an exception nothing here has changed."""
        epoch, status = self.head["epoch"], self.run["status"]
        stored, hashes, refs = list[Transition](), [self.head["hash"]], set[str]()
        for plain in events:
            audit = audit_of(plain.type, plain.data, self.created_by, status)
            event = plain if audit == plain.audit else plain._replace(audit=audit)
            if event.node_id is None:
                status = event.data.get("status") or status
            hashes.append(chain.event_hash(self.run_id, self.tenant_id, epoch, event, event.body_digest, hashes[-1]))
            if event.body is not None and (event.body_json is None or references.KEY in event.body_json):
                refs |= references.references(event.body)
            stored.append(event)
        run, nodes, retries, used = await self._folded(events)
        tasks = await folded_tasks(self.conn, self.tenant_id, self.run_id, epoch, events, self._tasks)
        await references.add_references(self.conn, self.tenant_id, self.run_id, refs)
        await save_tasks(self.conn, tasks)
        await note_revisions(self.conn, self.tenant_id, self.run_id, epoch, events)
        await note_waits(self.conn, self.tenant_id, self.run_id, epoch, events)
        last_at = events[-1].at if events else self._last_at
        seq = events[-1].seq if events else self.head["seq"]
        head: Head = {"epoch": epoch, "seq": seq, "hash": hashes[-1]}
        signature = self._signed(head)
        row = {
            **projection.settled(run, self._status, last_at or run["started_at"], final=self._final),
            **self._reported,
            "retry_count": retries,
            "head_epoch": epoch,
            "head_seq": seq,
            "head_hash": head["hash"],
            "head_signature": signature,
            "last_event_at": last_at,
        }
        has_budget = await write(
            self.conn, self.tenant_id, self.run_id, head, stored, hashes, nodes.values(), used, row
        )
        self._has_budget |= has_budget and bool(used)
        self.head, self.run, self.signature, self._last_at = head, run, signature, last_at
        self._nodes.update(nodes)
        self._tasks.update(tasks)

    async def begin_epoch(self, claimed: Head, stored: Head, request: RecordInput) -> None:
        """Go back to ``claimed`` and begin a new epoch there; with a CHAIN_GAP when it is not in the database."""
        number = max(stored["epoch"], claimed["epoch"]) + 1
        found = claimed if await stored_chain.has_event(self.conn, self.run_id, claimed) else None
        parent = found or await stored_chain.last_before(self.conn, self.run_id, claimed["seq"])
        await self._supersede(await stored_chain.lineage(self.conn, self.run_id, parent))
        self.head = {"epoch": number, "seq": parent["seq"], "hash": parent["hash"]}
        if found is None:
            at = chain.prepare(request["facts"][0]).at if request["facts"] else chain.to_time(0)
            await self.store([chain.chain_gap(claimed["seq"], at, stored, claimed)])

    async def finish(self) -> None:
        """Count again what a reset took back, and see whether the tenant's budget is spent."""
        if self._recount:
            repeated = func.coalesce(func.sum(func.greatest(node_executions.c.attempt - 1, 0)), 0)
            count = select(repeated).where(node_executions.c.run_id == self.run_id).scalar_subquery()
            is_run = (execution_runs.c.tenant_id == self.tenant_id) & (execution_runs.c.run_id == self.run_id)
            await self.conn.execute(update(execution_runs).where(is_run).values(retry_count=count))
        if self._has_budget:
            self.over = await usage.spent_up(self.conn, self.tenant_id)

    async def _folded(self, events: Sequence[Transition]) -> tuple[Row, dict[str, Row], int, usage.Days]:
        wanted = {event.node_id for event in events if event.node_id is not None} - self._nodes.keys()
        known = dict(self._nodes)
        if wanted and not self._is_new:
            known |= await node_rows(self.conn, self.run_id, wanted)
        run, nodes, retries = self.run, dict[str, Row](), 0
        used: usage.Days = {}
        for event in events:
            run = projection.run_after(run, event)
            usage.count(used, event.at, usage.used(event))
            if event.node_id is None:
                continue
            before = nodes.get(event.node_id) or known.get(event.node_id)
            after = projection.node_after(before, self.run_id, self.tenant_id, self.head["epoch"], event)
            if after is not None and after is not before:
                nodes[event.node_id] = after
                usage.count(used, event.at, {WALL_TIME: usage.work_ms(before, after)})
                retries += max(0, projection.retries(after) - projection.retries(before))
        return run, nodes, retries, used

    async def _supersede(self, kept: Sequence[stored_chain.Span]) -> None:
        """Mark what is not ``kept`` as superseded and fold the rest again, for the run and the nodes it concerned."""
        spans = [(run_events.c.epoch == one.epoch) & run_events.c.seq.between(one.first, one.last) for one in kept]
        is_kept = or_(false(), *spans)
        changed = await self.conn.execute(
            update(run_events)
            .where(run_events.c.run_id == self.run_id, run_events.c.superseded == is_kept)
            .values(superseded=~is_kept)
            .returning(run_events.c.node_id)
        )
        concerned = {row.node_id for row in changed if row.node_id is not None}
        is_concerned = node_executions.c.node_id == any_(bindparam("nodes", sorted(concerned), ARRAY(Text)))
        await self.conn.execute(delete(node_executions).where(node_executions.c.run_id == self.run_id, is_concerned))
        self.run = projection.run_before_events(self.run["inputs"])
        self._recount = True
        nodes: dict[str, Row] = {}
        for epoch, event in await stored_chain.chain_of(self.conn, self.run_id, concerned):
            self.run = projection.run_after(self.run, event)
            if event.node_id is not None:
                after = projection.node_after(nodes.get(event.node_id), self.run_id, self.tenant_id, epoch, event)
                if after is not None:
                    nodes[event.node_id] = after
        await save_nodes(self.conn, nodes.values())
        self._nodes.update(nodes)
        self._tasks = await fold_tasks_again(self.conn, self.tenant_id, self.run_id)
        await drop_superseded_revisions(self.conn, self.tenant_id, self.run_id)


async def _locked_run(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, identity: Mapping[str, str], child: RunIdentity | None
) -> Row:
    """The run's row, locked; one that is missing is made, so that a restored backup does not hold up the run.

    Of a run below a node nobody has made one before its first batch, which says what it is.
    """
    row = await locked_run(conn, tenant_id, run_id)
    if row is not None:
        return row
    retired = select(retired_runs.c.run_id).where(retired_runs.c.run_id == run_id)
    if (await conn.execute(retired)).first() is None:
        unknown = {"plan_id": _NO_PLAN, "plan_name": UNKNOWN_PLAN, "plan_version": "", "plan_digest": ""}
        known = {"created_by": "", **unknown} if child is None else row_of_child(child)
        values = {"run_id": run_id, "tenant_id": tenant_id, **known, **identity}
        await conn.execute(insert(execution_runs).values(values).on_conflict_do_nothing())
        row = await locked_run(conn, tenant_id, run_id)
    if row is None:
        raise NotFound(f"Run {run_id} was deleted, or belongs to another tenant.")
    return row


def _short(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).split("\n", 1)[0]
