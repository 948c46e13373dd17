"""What people ask of a run: signals, updates and queries, each answered or recorded, none of which can harm it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.asking import TaskEvent
    from dalang.authority import Authority, NotAuthenticated
    from dalang.canonical import safe_text
    from dalang.events import (
        BudgetRaised,
        CancelRequested,
        Event,
        PauseRequested,
        Rejected,
        ResumeRequested,
        RetryRequested,
        SkipRequested,
        TimedOut,
    )
    from dalang.program import Program
    from dalang.run import Run
    from dalang.statuses import RUN_ENDS, NodeStatus, RunStatus
    from dalang.workflows.lease_desk import answered
    from dalang.workflows.recording import FactFlow
    from dalang.workflows.requests import NAMES, UNAUTHENTICATED, Control, Malformed, check, checked, parse

MAX_REJECTIONS = 100
"""So many bad signals are recorded one by one; more only count, so that they cannot fill a history by themselves."""
ANSWER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Signalled:
    """What a signal asks for: judged when it is its turn, since what came before it may make it possible."""

    name: str
    event: Control


class Answering:
    """The part of ``PlanRun`` that people talk to; the loop works off ``_inbox``."""

    _inbox: deque[Event | Signalled]
    _invalid: str | None
    _rejections: int
    _authority: Authority
    _run: Run
    _run_id: str
    _program: Program
    _digest: str
    _flow: FactFlow

    def reject(self, request: str, reason: str) -> None:
        """Record that something sent into the run was ignored, and why."""
        self._inbox.extend(self._rejected(request, reason))

    def _rejected(self, request: str, reason: str) -> list[Event]:
        """Count what is ignored, and return what is recorded of it, if anything is."""
        self._rejections += 1
        if self._invalid is not None or self._rejections > MAX_REJECTIONS or self._run.status in RUN_ENDS:
            return []
        return [Rejected(safe_text(request, 200), safe_text(reason, 500))]

    def _signalled(self, name: str, kind: type[Control], payload: Any) -> None:
        if self._invalid is not None:
            return
        try:
            event = parse(kind, self._authority.judged(name, payload, self._now()))
        except (Malformed, NotAuthenticated) as refused:
            self.reject(f"signal {name}", str(refused))
            return
        if self._run.engine > 2:
            self._inbox.append(Signalled(name, event))
            return
        refusal = self._run.refusal(event, self._now())
        if refusal is not None and self._run.status is not RunStatus.PENDING:
            self.reject(f"signal {name}", str(refusal))
        else:
            self._inbox.append(event)

    def _take_inbox(self) -> None:
        """Let happen what has come, in its order."""
        run, at = self._run, self._now()
        while self._inbox:
            event = self._inbox.popleft()
            name = None
            if isinstance(event, Signalled):
                name, event = event.name, event.event
            refusal = run.refusal(event, at)
            if refusal is None:
                run.apply(event, at)
            elif name is not None:
                for rejected in self._rejected(f"signal {name}", str(refusal)):
                    run.apply(rejected, at)
            elif not isinstance(event, (TimedOut, CancelRequested)):
                # A node's end never comes twice; should it, the record shows it and the run goes on.
                run.apply(Rejected("event", str(refusal)), at)

    def _check(self, kind: type[Control], payload: Any) -> Control:
        if self._invalid is not None:
            raise ApplicationError(self._invalid, type="INVALID_INPUT", non_retryable=True)
        return check(self._run, kind, self._proven(NAMES[kind], payload), self._now())

    def _proven(self, request: str, payload: Any) -> Any:
        """Return the payload of an update with the operator who is proven, or claimed.

        Raises:
            ApplicationError: a proof would be needed, or is none.
        """
        try:
            return self._authority.judged(request, payload, self._now())
        except NotAuthenticated as refused:
            message = f"{request} is not possible: {refused}"
            raise ApplicationError(message, type=UNAUTHENTICATED, non_retryable=True) from None

    async def _updated(self, kind: type[Control], payload: Any) -> dict[str, Any]:
        await workflow.wait_condition(lambda: self._run.status is not RunStatus.PENDING)
        if self._run.engine > 2:
            self._take_inbox()  # signals that came before
        event = self._check(kind, payload)
        self._run.apply(event, self._now())
        told = self._run.task_answer(event) if isinstance(event, TaskEvent) else {}
        seq, status = self._run.seq, str(self._run.status)
        self._flow.hurry = True
        # The answer waits for the store, so that who asks next reads what was done; not for ever, as it may be away.
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._flow.head["seq"] >= seq, timeout=ANSWER_SECONDS)
        self._flow.hurry = False
        return {"runId": self._run_id, "status": status, **told}

    @workflow.signal(name=wire.SIGNAL_PAUSE)
    def pause(self, request: Any = None) -> None:
        """Start nothing new; what is in flight ends."""
        self._signalled(wire.SIGNAL_PAUSE, PauseRequested, request)

    @workflow.signal(name=wire.SIGNAL_RESUME)
    def resume(self, request: Any = None) -> None:
        """End a pause."""
        self._signalled(wire.SIGNAL_RESUME, ResumeRequested, request)

    @workflow.signal(name=wire.SIGNAL_CANCEL)
    def cancel(self, request: Any = None) -> None:
        """End the run in order."""
        self._signalled(wire.SIGNAL_CANCEL, CancelRequested, request)

    @workflow.signal(name=wire.SIGNAL_LEASES)
    def leases(self, request: Any = None) -> None:
        """Take news of leases that the run waits for; only Dalang itself sends it."""
        if self._invalid is not None:
            return
        try:
            self._inbox.extend(answered(request))
        except ValueError as error:
            self.reject(f"signal {wire.SIGNAL_LEASES}", str(error))

    @workflow.signal(dynamic=True)
    def other_signal(self, name: str, payloads: Sequence[RawValue]) -> None:
        """Record a signal nobody waits for."""
        self.reject(f"signal {name}", "there is no such signal; there are " + ", ".join(wire.SIGNALS))

    @workflow.update(name=wire.UPDATE_PAUSE)
    async def update_pause(self, request: Any = None) -> dict[str, Any]:
        """Pause, and answer with the status."""
        return await self._updated(PauseRequested, request)

    @update_pause.validator
    def _may_pause(self, request: Any = None) -> None:
        self._validate(PauseRequested, request)

    @workflow.update(name=wire.UPDATE_RESUME)
    async def update_resume(self, request: Any = None) -> dict[str, Any]:
        """Resume, and answer with the status."""
        return await self._updated(ResumeRequested, request)

    @update_resume.validator
    def _may_resume(self, request: Any = None) -> None:
        self._validate(ResumeRequested, request)

    @workflow.update(name=wire.UPDATE_RETRY_NODE)
    async def retry_node(self, request: Any = None) -> dict[str, Any]:
        """Run a failed node again that waits for a decision, with changed inputs if wanted."""
        return await self._updated(RetryRequested, request)

    @retry_node.validator
    def _may_retry_node(self, request: Any = None) -> None:
        self._validate(RetryRequested, request)

    @workflow.update(name=wire.UPDATE_SKIP_NODE)
    async def skip_node(self, request: Any = None) -> dict[str, Any]:
        """Skip a node that has not started, or that failed and waits, with substituted outputs if wanted."""
        return await self._updated(SkipRequested, request)

    @skip_node.validator
    def _may_skip_node(self, request: Any = None) -> None:
        self._validate(SkipRequested, request)

    @workflow.update(name=wire.UPDATE_CANCEL)
    async def update_cancel(self, request: Any = None) -> dict[str, Any]:
        """Cancel, and answer with the status."""
        return await self._updated(CancelRequested, request)

    @workflow.update(name=wire.UPDATE_RAISE_BUDGET)
    async def update_budget(self, request: Any = None) -> dict[str, Any]:
        """Give the run another budget, and answer with the status."""
        return await self._updated(BudgetRaised, request)

    @update_budget.validator
    def _may_raise_budget(self, request: Any = None) -> None:
        self._validate(BudgetRaised, request)

    @update_cancel.validator
    def _may_cancel(self, request: Any = None) -> None:
        self._validate(CancelRequested, request)

    def _validate(self, kind: type[Control], payload: Any) -> None:
        if self._invalid is None and self._run.status is RunStatus.PENDING:
            # Asked before the first pass: the handler waits for it, and then checks the rest.
            checked(kind, self._proven(NAMES[kind], payload))
        else:
            self._check(kind, payload)

    @workflow.query(name=wire.QUERY_STATUS)
    def status(self, request: Any = None) -> dict[str, Any]:
        """Return status, counts of nodes by status, and the last event's number."""
        if self._invalid is not None:
            return {"invalid": self._invalid}
        status, counts = self._summary()
        return {
            "runId": self._run_id,
            "status": status,
            "plan": self._program.document["name"],
            "planVersion": self._program.document["version"],
            "nodeStatusCounts": counts,
            "ending": None if self._run.ending is None else str(self._run.ending),
            "awaiting": [self._program.ids[node] for node in self._run.awaiting[:100]],
            "openTasks": len(self._run.tasks),
            "revision": self._run.revision,
            "lastEvent": self._run.seq,
            "stored": self._flow.head["seq"],
            "rejectedRequests": self._rejections,
        }

    @workflow.query(name=wire.QUERY_NODES)
    def nodes(self, request: Any = None) -> dict[str, Any]:
        """Return up to 200 nodes with their status; ``{"after": nodeId, "status": STATUS}`` pages and filters."""
        if self._invalid is not None:
            return {"invalid": self._invalid}
        options: Mapping[str, Any] = request if isinstance(request, dict) else {}
        after, wanted = options.get("after"), options.get("status")
        first = self._program.index.get(after, -1) + 1 if isinstance(after, str) else 0
        found = []
        for node in range(first, len(self._program.ids)):
            status: NodeStatus = self._run.statuses[node]
            if wanted is None or status == wanted:
                found.append(
                    {"nodeId": self._program.ids[node], "type": self._program.types[node], "status": str(status)}
                )
                if len(found) == 200:
                    break
        return {"nodes": found, "total": len(self._program.ids)}

    @workflow.query(name=wire.QUERY_PLAN)
    def plan(self, request: Any = None) -> dict[str, Any]:
        """Return what plan this is, without its nodes."""
        if self._invalid is not None:
            return {"invalid": self._invalid}
        document = self._program.document
        return {
            **{key: document[key] for key in ("planId", "name", "version", "priority", "policy", "timeout")},
            "program": self._digest,
            "revision": self._run.revision,
            "nodes": len(self._program.ids),
            "edges": len(self._program.edge_ids),
        }

    def _summary(self) -> tuple[str, dict[str, int]]:
        counts = {str(status): count for status, count in self._run.counts.items() if count}
        return str(self._run.status), dict(sorted(counts.items()))

    @staticmethod
    def _now() -> int:
        return int(workflow.time() * 1000)
