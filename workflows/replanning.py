"""Another plan for a run that goes on: the update and signal ``replan``.

The next revision is prepared by an activity, beside the nodes, which go on meanwhile; what they put out is retained,
since the new plan may read it. When it is ready the state machine decides, at that moment, whether it can be taken: of
two at once the first wins, and the second was made for a plan that is no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.authority import NotAuthenticated
    from dalang.canonical import find_unsafe
    from dalang.events import PlanRevised
    from dalang.program import Program
    from dalang.revising import RevisionRefused
    from dalang.statuses import RUN_ENDS, ImpossibleMove, RunStatus
    from dalang.workflows.answering import ANSWER_SECONDS
    from dalang.workflows.hearing import HearingEvents
    from dalang.workflows.programs import program_of
    from dalang.workflows.requests import INVALID_REQUEST, WRONG_STATE, Malformed, text

RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2, maximum_interval=timedelta(seconds=5)
)
_PREPARING = timedelta(minutes=10)
"""How long all attempts to prepare a revision may take: Postgres may be away meanwhile, a very large plan takes some
seconds."""
_FIELDS = ("patch", "plan", "operator", "reason", "expectedRevision", "dryRun")


@dataclass(frozen=True)
class ReplanRequest:
    """What somebody asks for: ``change`` is ``{patch}`` or ``{plan}``."""

    change: dict[str, Any]
    operator: str | None = None
    reason: str | None = None
    expected: int | None = None
    dry_run: bool = False
    planning: int | None = None
    """The number of the request to the planner that this answers."""


def parse_replan(payload: Any) -> ReplanRequest:
    """Return the request of a payload.

    Raises:
        Malformed: it is none. What patch and plan hold is looked at by the activity.
    """
    known = ", ".join(_FIELDS)
    if not isinstance(payload, dict):
        raise Malformed(f"the payload is a JSON object with {known}")
    unknown = [str(key)[:50] for key in payload if key not in _FIELDS]
    if unknown:
        raise Malformed(f"unknown field {unknown[0]!r}; there are {known}")
    given: dict[str, Any] = payload
    change = {name: given[name] for name in ("patch", "plan") if given.get(name) is not None}
    if len(change) != 1:
        raise Malformed("a replan has either a patch or a plan")
    name, value = next(iter(change.items()))
    if not isinstance(value, dict):
        raise Malformed(f"{name} is an object")
    unsafe = find_unsafe(value)
    if unsafe is not None:
        raise Malformed(f"{name}{unsafe[0]} {unsafe[1]}")
    expected, dry_run = given.get("expectedRevision"), given.get("dryRun", False)
    if expected is not None and (not isinstance(expected, int) or isinstance(expected, bool)):
        raise Malformed("expectedRevision is a number")
    if not isinstance(dry_run, bool):
        raise Malformed("dryRun is true or false")
    operator, reason = (None if given.get(key) is None else text(key, given[key]) for key in ("operator", "reason"))
    return ReplanRequest(change, operator, reason, expected, dry_run)


class Replanning(HearingEvents):
    """The part of ``PlanRun`` that takes other plans."""

    _document: Any
    _tenant_id: str

    def _take_program(self, program: Program) -> None:
        raise NotImplementedError

    def _keep_deadline(self) -> None:
        raise NotImplementedError

    @workflow.update(name=wire.UPDATE_REPLAN)
    async def update_replan(self, request: Any = None) -> dict[str, Any]:
        """Let the run go on with another plan, and answer with its revision."""
        return await self._replan(self._wanted(request))

    @update_replan.validator
    def _may_replan(self, request: Any = None) -> None:
        self._wanted(request)

    @workflow.signal(name=wire.SIGNAL_REPLAN)
    async def replan(self, request: Any = None) -> None:
        """Let the run go on with another plan; a refusal is recorded."""
        if self._invalid is not None:
            return
        try:
            proven = self._authority.judged(wire.SIGNAL_REPLAN, request, self._now())
            await self._replan(parse_replan(proven))
        except (Malformed, NotAuthenticated) as refused:
            self.reject(f"signal {wire.SIGNAL_REPLAN}", str(refused))
        except ApplicationError as refused:
            self.reject(f"signal {wire.SIGNAL_REPLAN}", refused.message)

    def _wanted(self, payload: Any) -> ReplanRequest:
        if self._invalid is not None:
            raise ApplicationError(self._invalid, type="INVALID_INPUT", non_retryable=True)
        try:
            request = parse_replan(self._proven(wire.UPDATE_REPLAN, payload))
        except Malformed as malformed:
            raise ApplicationError(str(malformed), type=INVALID_REQUEST, non_retryable=True) from None
        if self._run.status is not RunStatus.PENDING:
            self._unless(self._run.revisable("replan", request.expected))
        return request

    async def _replan(self, request: ReplanRequest) -> dict[str, Any]:
        run = self._run
        await workflow.wait_condition(lambda: run.status is not RunStatus.PENDING)
        self._unless(run.revisable("replan", request.expected))
        base = run.revision
        run.retain()
        try:
            prepared = await self._prepared(request)
            event = self._event(prepared, base, request)
            self._unless(run.refusal(event), prepared.get("places", {}))
            if not request.dry_run:
                self._revise(event)
        finally:
            run.release()
        seq = run.seq
        answer = {
            "runId": self._run_id,
            "status": str(run.status),
            "revision": run.revision + request.dry_run,
            "plan": prepared["digest"],
            "changes": prepared["counts"],
            "diff": prepared["diff"],
            "warnings": prepared["warnings"],
        }
        if not request.dry_run:
            with contextlib.suppress(TimeoutError):
                await self._stored(seq, ANSWER_SECONDS)
        return answer

    async def _prepared(self, request: ReplanRequest) -> wire.PreparedRevision:
        """Have a revision prepared; gives up when the run ends.

        Raises:
            ApplicationError: the request is invalid, or the plan is not stored.
        """
        run = self._run
        # The activity reads from the store what ended nodes have put out: first everything until now has to be there.
        await self._stored(run.seq)
        task: asyncio.Task[Any] = workflow.start_activity(
            wire.PREPARE_REVISION,
            self._revision_request(request),
            result_type=dict,
            start_to_close_timeout=_PREPARING,
            schedule_to_close_timeout=_PREPARING,
            heartbeat_timeout=timedelta(seconds=5),
            retry_policy=RETRY,
            summary=f"revision {run.revision + 1}",
        )
        await workflow.wait_condition(lambda: task.done() or run.status in RUN_ENDS)
        if not task.done():
            task.cancel()
        try:
            prepared: wire.PreparedRevision = await task
        except (ActivityError, asyncio.CancelledError) as error:
            cause = getattr(error, "cause", None) or error
            self._unless(run.revisable("replan"))
            message = getattr(cause, "message", None) or f"the revision could not be prepared: {type(cause).__name__}"
            raise ApplicationError(message, type=WRONG_STATE, non_retryable=True) from None
        problems = prepared.get("problems")
        if problems is not None:
            what = next(iter(request.change))
            first = problems[0]["message"] if problems else ""
            message = f"the {what} has {len(problems)} error(s): {first}"
            raise ApplicationError(
                message, {"what": what, "problems": problems}, type=INVALID_REQUEST, non_retryable=True
            )
        return prepared

    def _revision_request(self, request: ReplanRequest) -> wire.RevisionRequest:
        asked: wire.RevisionRequest = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "revision": self._run.revision,
            "plan": self._run.plan_digest,
            "priority": self._program.priority,
            "change": request.change,
            "dryRun": request.dry_run,
        }
        if request.planning is not None:
            asked["byPlanner"] = True
        return asked

    def _event(self, prepared: wire.PreparedRevision, base: int, request: ReplanRequest) -> PlanRevised:
        return PlanRevised(
            program=program_of(prepared["program"]),
            digest=prepared["digest"],
            base=base,
            diff=prepared["diff"],
            counts=prepared["counts"],
            known=prepared["known"],
            operator=request.operator,
            reason=request.reason,
            planning=request.planning,
        )

    def _revise(self, event: PlanRevised) -> None:
        self._run.apply(event, self._now())
        self._take_program(event.program)
        self._keep_deadline()

    async def _stored(self, seq: int, seconds: float | None = None) -> None:
        """Wait until the event ``seq`` is stored, and have it stored soon.

        Raises:
            TimeoutError: it took longer than ``seconds``.
        """
        self._flow.hurry = True
        try:
            await workflow.wait_condition(lambda: self._flow.head["seq"] >= seq, timeout=seconds)
        finally:
            self._flow.hurry = False

    @staticmethod
    def _unless(refusal: ImpossibleMove | None, places: Any = None) -> None:
        """Raise what refuses a revision, with every place that does not fit what has happened."""
        if refusal is None:
            return
        details: list[Any] = []
        if isinstance(refusal, RevisionRefused):
            problems = [
                {
                    **clash,
                    "pointer": (places or {}).get(_place(clash), ""),
                    "code": "IMMUTABLE",
                    "severity": "error",
                    "message": f"{_subject(clash)} {clash['message']}.",
                }
                for clash in refusal.clashes
            ]
            details = [{"problems": problems}]
        raise ApplicationError(str(refusal), *details, type=WRONG_STATE, non_retryable=True)


def _place(clash: dict[str, str]) -> str:
    return f"nodes/{clash['nodeId']}" if "nodeId" in clash else f"edges/{clash['edgeId']}"


def _subject(clash: dict[str, str]) -> str:
    return f"Node {clash['nodeId']}" if "nodeId" in clash else f"Edge {clash['edgeId']}"
