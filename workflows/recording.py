"""The flow of facts from a run to the store: coalesced batches, one ``record`` activity at a time, beside the nodes.

A run that is over soon stores everything at once, at its end: nothing before :attr:`FactFlow.interval`, and then all of
it by a local activity, in the very workflow task that ends the run, which spares the server an activity and a task.
Its marker in the history carries the batch, as an activity's input does. A worker that dies after it, and before the
server has the task, leaves a task that is done again, and events that a second epoch supersedes; so nobody may have
been told of the run before, and what its nodes returned has to be in the history already. Where Postgres does not
answer at once, the ordinary activity waits for it. Runs that began before there was this keep to what they did
(``wire.ENGINE_VERSION``).

Postgres may be away for long: the activity waits and is repeated, facts gather here, nodes go on until
:attr:`FactFlow.full`. A batch stays below the threshold at which payloads go to external storage, since that is
Postgres too and would stop the workflow task itself; large bodies were stored by the node's worker and are referred to.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import body_reference, compact_json
    from dalang.fact_packing import FACT_BYTES, kind_of, packed
    from dalang.wire import INLINE_BODY_BYTES, RECORD, EventType, Fact, Head, RecordInput, RunIdentity

MAX_BATCH_FACTS = 500
MAX_PACKED_FACTS = 2_000
MAX_BATCH_BYTES = 40 * 1024
MIN_INTERVAL_SECONDS = 0.2
"""From the beginning of one batch to that of the next: storing is an activity too, so a busy run gathers more facts
for each; what people see of a run is at most this old, where workers keep up."""
MAX_INTERVAL_SECONDS = 1.0
BUSY_FACTS = 30
"""After a batch of so many the next one comes twice as late, up to :data:`MAX_INTERVAL_SECONDS`: a batch costs a run of
short nodes as much as several of them. After a smaller one it is the first interval again."""
DELAYS = 10
MAX_DELAY_SECONDS = 2.0
"""Where workers do not keep up, the first batch waits for ten times what the run's first workflow task had to, and no
longer than this: a run that is over by then costs them one batch, within its last task."""
TIMER_SLACK = 1.25
"""The timer for a batch rings so much later: a run that goes on sees by itself that it is time."""
LAST_SECONDS = 2.0
"""So long the last batch may take within the workflow task; no one hears a heartbeat from there."""
MAX_WAITING_FACTS = 5_000
"""With so many facts not stored nothing more is started: a run does not outgrow its memory while Postgres is away."""
FACT_OVERHEAD_BYTES = 160
_SEEN_BY_WORKER = (
    EventType.NODE_STARTED,
    EventType.NODE_WAITING,
    EventType.NODE_COMPLETED,
    EventType.NODE_COMPENSATING,
    EventType.NODE_COMPENSATED,
)

_HEARTBEAT = timedelta(seconds=5)
"""A worker that was killed while it stored holds up the next batch, and the end of the run, for so long."""
_ONCE = RetryPolicy(maximum_attempts=1)
_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2, maximum_interval=timedelta(seconds=5)
)


def identity_of(state: Mapping[str, Any]) -> RunIdentity | None:
    """Return what the row of the run is made from when it runs below a node of another."""
    link, about = state.get("child"), state["about"]
    if link is None:
        return None
    identity: RunIdentity = {
        "parentRunId": link["parentRunId"],
        "parentNodeId": link["parentNodeId"],
        "topRunId": link["topRunId"],
        "iteration": link["iteration"],
        "generation": link["generation"],
        "keyRoot": link.get("keyRoot", ""),
        "planDigest": link["planDigest"],
        "totalNodes": link["totalNodes"],
        "elements": link["elements"],
        "planId": about["planId"],
        "planName": about["plan"],
        "planVersion": about["planVersion"],
        "createdBy": about.get("createdBy", ""),
        "priority": about["priority"],
        "metadata": about.get("metadata", {}),
    }
    if "undoOf" in link:
        identity["undoOf"] = link["undoOf"]
    return identity


class FactFlow:
    """Facts on their way to the store. ``head`` is the last stored one, as the store answered.

    ``engine`` is the version that the run began with.
    ``over`` is told when the store finds that the tenant's budget of the day is spent.
    ``hurry`` is set while somebody waits for what is stored: an answer to an operator, a continue-as-new.
    ``lasting`` is cleared when what a node returned may not be in the history yet.
    """

    def __init__(
        self,
        run_id: str,
        tenant_id: str,
        head: Head,
        summary: Callable[[], tuple[str, dict[str, int]]],
        identity: RunIdentity | None = None,
        over: Callable[[Mapping[str, Any]], None] | None = None,
        *,
        engine: int,
    ) -> None:
        self.head = head
        self._late, self._packs, self._stretches, self._patient = (engine > since for since in (3, 4, 6, 7))
        self._most = MAX_PACKED_FACTS if self._packs else MAX_BATCH_FACTS
        self._kinds = set[str]()
        self.interval = MIN_INTERVAL_SECONDS
        self._over = over
        self._identity = identity
        self.hurry = False
        self.lasting = True
        self._run_id = run_id
        self._tenant_id = tenant_id
        self._summary = summary
        self._waiting: deque[tuple[Fact, int, str]] = deque()
        self._waiting_bytes = 0
        self._not_before = 0.0
        self._closed = False
        self._busy = False

    def add(self, facts: list[Fact], stored_by_worker: Callable[[Fact], bool]) -> None:
        """Take facts in order; ``stored_by_worker`` says of a node's fact whether its worker has kept large bodies."""
        for fact in facts:
            size, kind = FACT_OVERHEAD_BYTES, ""
            if self._packs:
                kind = kind_of(fact)
                size = FACT_BYTES + len(fact.get("nodeId", ""))
                if kind not in self._kinds:
                    self._kinds.add(kind)
                    self._waiting_bytes += len(kind)
            body = fact.get("body")
            if body:
                by_worker = "nodeId" in fact and stored_by_worker(fact)
                for key, value in body.items():
                    encoded = compact_json(value)
                    # What a worker did not see - an operator's words, a plan's fallback - nobody else has stored.
                    if len(encoded) >= INLINE_BODY_BYTES and by_worker and fact["type"] in _SEEN_BY_WORKER:
                        fact["body"] = {**fact["body"], key: body_reference(encoded)}
                    else:
                        size += len(encoded)
            self._waiting.append((fact, size, kind))
            self._waiting_bytes += size

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more should be started."""
        return len(self._waiting) >= MAX_WAITING_FACTS

    @property
    def idle(self) -> bool:
        """Whether everything is stored."""
        return not self._waiting and not self._busy

    def close(self) -> None:
        """Let :meth:`flow` end when everything is stored."""
        self._closed = True

    async def flow(self) -> None:
        """Store batch after batch until closed and empty."""
        if self._late:
            pause = MIN_INTERVAL_SECONDS
            if self._patient and self.head["seq"] == 0:
                delay = workflow.time() - workflow.info().workflow_start_time.timestamp()
                pause = min(max(DELAYS * delay, pause), MAX_DELAY_SECONDS)
            self._not_before = workflow.time() + pause
            self.interval = min(pause, MAX_INTERVAL_SECONDS)
        first, stretches = self.interval, self._stretches
        while True:
            await workflow.wait_condition(lambda: bool(self._waiting) or self._closed)
            if not self._waiting:
                return
            pause = self._not_before - workflow.time()
            if pause > 0 and not self._urgent():
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(self._urgent, timeout=pause * TIMER_SLACK if stretches else pause)
            batch = self._take()
            if stretches:
                self.interval = min(2 * self.interval, MAX_INTERVAL_SECONDS) if len(batch) >= BUSY_FACTS else first
            self._not_before = workflow.time() + self.interval
            self._busy = True
            await self._store(batch)
            self._busy = False

    def _urgent(self) -> bool:
        """Whether a batch is due before its time: the run waits for it, or it is full."""
        full = len(self._waiting) >= self._most or self._waiting_bytes >= MAX_BATCH_BYTES
        return self._closed or self.hurry or full or workflow.time() >= self._not_before

    def _take(self) -> list[tuple[Fact, str]]:
        batch: list[tuple[Fact, str]] = []
        total, kinds = 0, set[str]()
        while self._waiting and len(batch) < self._most:
            fact, size, kind = self._waiting[0]
            whole = size if kind in kinds else size + len(kind)
            if batch and total + whole > MAX_BATCH_BYTES:
                break
            self._waiting.popleft()
            self._waiting_bytes -= size
            kinds.add(kind)
            batch.append((fact, kind))
            total += whole
        if not self._waiting:
            self._waiting_bytes = 0
            self._kinds.clear()
        return batch

    async def _store(self, batch: list[tuple[Fact, str]]) -> None:
        status, counts = self._summary()
        request: RecordInput = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "head": self.head,
            "facts": [] if self._packs else [fact for fact, _ in batch],
            "status": status,
            "counts": counts,
            "final": self._closed and not self._waiting,
        }
        if self._packs:
            request["packed"] = packed(batch)
        if self._identity is not None and self.head["seq"] == 0:
            request["identity"] = self._identity
        head: dict[str, Any] | None = None
        if self._late and self.lasting and request["final"] and self.head["seq"] == 0:
            head = await _stored_here(request)
        if head is None:
            head = await workflow.execute_activity(
                RECORD,
                request,
                result_type=dict,
                start_to_close_timeout=timedelta(seconds=30),
                heartbeat_timeout=_HEARTBEAT,
                retry_policy=_RETRY,
                summary=f"{len(batch)} events",
            )
        assert head is not None
        self.head = {"epoch": head["epoch"], "seq": head["seq"], "hash": head["hash"]}
        if self._over is not None and isinstance(head.get("over"), dict):
            self._over(head["over"])


async def _stored_here(request: RecordInput) -> dict[str, Any] | None:
    """Store a batch within the workflow task; None where that did not succeed at once."""
    try:
        stored: dict[str, Any] = await workflow.execute_local_activity(
            RECORD,
            request,
            result_type=dict,
            schedule_to_close_timeout=timedelta(seconds=LAST_SECONDS),
            retry_policy=_ONCE,
        )
    except ActivityError:
        return None
    return stored
