"""``PlanRun``: the one workflow type. It begins what the state machine says is due and reports what happened to it.

One pass of the loop: take the events that came in, ask the machine what is due, begin it, hand the new facts on.
Signals and updates become events too. Everything here is recorded in histories, so a change of what is done, or in
which order, needs a patch marker (``workflow.patched``); ``tests/replay`` holds histories of every feature.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.common import RawValue, SearchAttributeKey
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.authority import Authority
    from dalang.events import (
        AlarmRang,
        Ask,
        Begin,
        CancelRequested,
        Event,
        GiveBack,
        MakePlan,
        NodeSucceeded,
        RunSegment,
        Start,
        Stop,
        StopSegment,
        TenantBudgetSpent,
        TimedOut,
        Undo,
    )
    from dalang.nesting import CONTAINER_TYPES
    from dalang.program import Program
    from dalang.run import Run
    from dalang.run_state import CORE_WAITS
    from dalang.statuses import RUN_ENDS, RunStatus
    from dalang.wait_inputs import sleep_ms
    from dalang.workflows.answering import Signalled
    from dalang.workflows.answering_people import AnsweringPeople
    from dalang.workflows.children import Children
    from dalang.workflows.details import current_details
    from dalang.workflows.dispatch import Dispatcher, stopped, success, undone
    from dalang.workflows.lease_desk import LeaseDesk
    from dalang.workflows.planners import Planners
    from dalang.workflows.programs import program_of, taking_raw
    from dalang.workflows.recording import FactFlow, identity_of
    from dalang.workflows.segments import Segments

DRAIN_SECONDS = 10
"""How long a run waits for a quiet point before it starts nodes again, while its history may still grow."""
DETAILS_EVERY_SECONDS = 1.0
LONGEST_TIMER_MS = 366 * 86_400_000
MAX_CONTRIBUTORS = 1_000
"""So many people a run below a node names to the run above it."""
_CARRIED = (
    "engine",
    "runId",
    "tenantId",
    "inputs",
    "about",
    "maxInFlight",
    "historyLimit",
    "pages",
    "keyRoot",
    "child",
    "limits",
    "authority",
)

_STATUS = SearchAttributeKey.for_keyword("DalangRunStatus")
_NONE: Any = None


@workflow.defn(name=wire.PLAN_RUN)
class PlanRun(Planners, AnsweringPeople):
    """Drives one run of a plan; see the module's text.

    Arguments: the program document (``compilation.compile_plan``), and the run's state: runId, tenantId, inputs, about,
    maxInFlight, historyLimit, pages (runs have theirs below that address), for a redrive keyRoot and seed, and after a
    continue-as-new also snapshot, head, wakes and deadline.
    """

    @workflow.init
    @taking_raw
    def __init__(self, program: RawValue = _NONE, state: Any = None, *surplus: Any) -> None:
        self._inbox: deque[Event | Signalled] = deque()
        self._in_flight: dict[str, tuple[Start | Undo, asyncio.Task[Any]]] = {}
        self._elsewhere: set[str] = set()
        self._stopping: set[str] = set()
        self._interrupted: set[str] = set()
        self._wakes: dict[str, int] = {}
        self._rejections = 0
        self._cancelled = False
        self._details_at = 0.0
        self._was_full = False
        self._drain_until: float | None = None
        self._drain_again_at = 0
        self._deadline: tuple[int, asyncio.Task[None]] | None = None
        self._alarm_at: int | None = None
        self._alarm: asyncio.Task[None] | None = None
        self._invalid: str | None = None
        try:
            self._set_up(program, state)
        except Exception as error:
            # Raised here it would fail the workflow task for ever; `run` ends the workflow with it instead.
            self._invalid = f"this is no input of {wire.PLAN_RUN} ({type(error).__name__}); start runs through the API"

    def _set_up(self, document: Any, state: Any) -> None:
        if state["engine"] not in wire.ENGINE_VERSIONS:
            raise ValueError("another engine version")
        self._state: dict[str, Any] = state
        self._run_id: str = state["runId"]
        self._tenant_id: str = state["tenantId"]
        self._take_program(program_of(document, state.get("program")))
        self._document = document
        snapshot = state["seed"]["snapshot"] if self._seed() else state.get("snapshot")
        if snapshot is None:
            self._run = Run(self._program, state["inputs"], state["about"], state["maxInFlight"])
        else:
            self._run = Run.restore(self._program, state["inputs"], snapshot, state["maxInFlight"])
        self._run.limited = frozenset(state.get("limits", ()))
        self._run.key_root = state.get("keyRoot") or self._run_id
        self._run.engine = state["engine"]
        self._authority = Authority(self._tenant_id, self._run_id, state.get("authority"), "child" in state)
        self._children = Children(self._run, state)
        self._desk = LeaseDesk(self._run, self._run_id, self._tenant_id, self._inbox.append)
        self._segments = Segments(
            self._run_id,
            self._tenant_id,
            self._run.key_root,
            self._program.priority,
            self._inbox.append,
            here=state["engine"] > 5,
        )
        self._wakes = dict(state.get("wakes", {}))
        self._rejections = state.get("rejections", 0)
        self._shown = self._run.status
        head: wire.Head = state.get("head", {"epoch": 0, "seq": 0, "hash": ""})
        self._flow = FactFlow(
            self._run_id,
            self._tenant_id,
            head,
            self._summary,
            identity_of(state),
            self._tenant_over,
            engine=state["engine"],
        )

    def _take_program(self, program: Program) -> None:
        """Go by this program from now on."""
        self._program, self._digest = program, program.digest
        self._document: Any = program.document
        """What the next execution is given: the payload that came, as long as the plan is not changed."""
        self._dispatcher = Dispatcher(
            self._program, self._run_id, self._tenant_id, self._state["about"], self._state.get("keyRoot")
        )

    # -- the loop --------------------------------------------------------------------------------------------------

    @workflow.run
    @taking_raw
    async def run(self, program: RawValue = _NONE, state: Any = None, *surplus: Any) -> Any:
        """Run the plan to its end and return ``{runId, status, outputs, head}``.

        Raises:
            ApplicationError: the run FAILED; its type is the error's, its detail the same object with ``error``.
        """
        if self._invalid is not None:
            raise ApplicationError(self._invalid, type="INVALID_INPUT", non_retryable=True)
        storing = asyncio.create_task(self._flow.flow())
        self._begin_or_go_on()
        while True:
            self._pass()
            if self._run.status in RUN_ENDS:
                self._flow.close()
                break
            if self._may_continue_as_new():
                self._continue_as_new()
            await self._wait()
        for timer in (self._deadline[1] if self._deadline else None, self._alarm):
            if timer is not None:
                timer.cancel()
        await self._unless_cancelled(asyncio.create_task(self._desk.close()))
        await self._unless_cancelled(storing)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._conclude()

    def _begin_or_go_on(self) -> None:
        if self._state.get("snapshot") is None:
            self._inbox.append(Begin(self._seed()))
            if isinstance(self._state.get("over"), dict):
                self._tenant_over(self._state["over"])
        for node_id in self._wakes:
            node = self._program.index[node_id]
            self._sleep(Start(node, node_id, "sleep", {}), max(self._wakes[node_id] - self._now(), 0))
        timeout = self._program.timeout_ms
        deadline = self._state.get("deadline")
        self._began: int = self._state.get("began") or (deadline - timeout if deadline and timeout else self._now())
        self._keep_deadline()

    def _keep_deadline(self) -> None:
        """Keep one timer for the run's timeout, which counts from the run's beginning."""
        timeout = self._program.timeout_ms
        at = None if timeout is None else self._began + timeout
        if self._deadline is not None:
            if self._deadline[0] == at:
                return
            self._deadline[1].cancel()
        self._deadline = None if at is None else (at, asyncio.create_task(self._time_out(at - self._now())))

    def _tenant_over(self, over: Mapping[str, Any]) -> None:
        """Take note that the tenant has used what it may on this day."""
        self._inbox.append(TenantBudgetSpent(over["measure"], over["limit"], over["spent"], over["until"]))

    def _seed(self) -> dict[str, Any] | None:
        """Return what the run begins with, before it has begun."""
        return self._state.get("seed") if self._state.get("snapshot") is None else None

    def _pass(self) -> None:
        run, at = self._run, self._now()
        # In runs of the first version, what an update had changed already was no change.
        before = run.status if run.engine == 1 else self._shown
        self._take_inbox()
        steps = run.due(at, starting=not self._holding())
        asks = [step for step in steps if isinstance(step, Ask)]
        self._desk.take(asks, [step for step in steps if isinstance(step, GiveBack)])
        for step in steps:
            if isinstance(step, Ask | GiveBack):
                continue
            if isinstance(step, Stop):
                self._stop(step)
            elif isinstance(step, Undo):
                self._begin_undo(step)
            elif isinstance(step, MakePlan):
                self._plan(step)
            elif isinstance(step, RunSegment):
                self._segments.begin(step)
                self._flow.lasting = not self._segments.within_task
            elif isinstance(step, StopSegment):
                self._segments.stop(step.number)
            elif step.type == "sleep":
                self._begin_sleep(step)
            else:
                self._begin(step)
        self._children.follow()
        self._keep_planner()
        self._keep_alarm()
        facts, run.facts = run.facts, []
        self._flow.add(facts, self._is_stored_by_worker)
        if run.status is not before:
            self._show_status(before)
        if workflow.time() - self._details_at >= DETAILS_EVERY_SECONDS or run.status is not before:
            self._details_at = workflow.time()
            workflow.set_current_details(current_details(run, self._state))

    async def _wait(self) -> None:
        timeout = None if self._drain_until is None else max(self._drain_until - workflow.time(), 0.001)
        try:
            await workflow.wait_condition(self._has_work, timeout=timeout)
        except TimeoutError:
            self._drain_until = None
            self._drain_again_at = workflow.info().get_current_history_length() + 1_000
        except asyncio.CancelledError:
            # Somebody cancelled the workflow itself (`temporal workflow cancel`, the Web UI): the run ends in order.
            self._cancelled = True
            self._inbox.append(CancelRequested(operator="temporal", reason="cancelled through Temporal"))

    def _has_work(self) -> bool:
        if self._inbox or self._run.facts or self._run.status in RUN_ENDS:
            return True
        if self._was_full and not self._flow.full:
            return True
        return self._may_continue_as_new()  # with one condition less the loop would turn for ever, and nothing could

    async def _unless_cancelled(self, task: asyncio.Task[None]) -> None:
        """Await the last transitions being stored; a cancel that comes now changes nothing any more."""
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                self._cancelled = True
        task.result()

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _begin(self, step: Start) -> None:
        task = self._dispatcher.begin(step) if step.child is None else self._children.begin(step)
        if "taskQueue" in (step.route or {}):
            self._elsewhere.add(step.node_id)
        else:
            self._elsewhere.discard(step.node_id)
        self._in_flight[step.node_id] = (step, task)
        task.add_done_callback(lambda done: self._ended(step, done))

    def _begin_undo(self, step: Undo) -> None:
        task = self._dispatcher.begin_undo(step) if step.below is None else self._children.begin_undo(step)
        self._in_flight[step.node_id] = (step, task)
        task.add_done_callback(lambda done: self._undo_ended(step, done))

    def _undo_ended(self, step: Undo, task: asyncio.Task[Any]) -> None:
        if self._in_flight.pop(step.node_id, None) is None:
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if step.below is not None:
            self._inbox.append(self._children.undone(step, task))
        elif error is not None:
            self._inbox.append(self._dispatcher.undo_failure(step, error))
        else:
            self._inbox.append(undone(step, task.result()))

    def _begin_sleep(self, step: Start) -> None:
        try:
            ms = sleep_ms(step.inputs)
        except ValueError as error:
            self._inbox.append(self._dispatcher.invalid(step, str(error)))
            return
        self._sleep(step, ms)

    def _sleep(self, step: Start, ms: int) -> None:
        self._wakes[step.node_id] = self._now() + ms
        name = self._program.nodes[step.node].get("name", step.node_id)
        task = asyncio.create_task(workflow.sleep(timedelta(milliseconds=ms), summary=name[:200]))
        self._in_flight[step.node_id] = (step, task)
        task.add_done_callback(lambda done: self._ended(step, done))

    def _stop(self, step: Stop) -> None:
        self._stopping.add(step.node_id)
        if step.interrupt:
            self._interrupted.add(step.node_id)
        start, task = self._in_flight[step.node_id]
        if isinstance(start, Start) and start.child is not None:
            self._children.stop(step.node_id)
        else:
            task.cancel()

    def _ended(self, step: Start, task: asyncio.Task[Any]) -> None:
        if self._in_flight.pop(step.node_id, None) is None:
            return
        if step.child is not None:
            self._inbox.append(self._children.ended(step, task, step.node_id in self._stopping))
            return
        woken = self._wakes.pop(step.node_id, None) is not None
        told, interrupted = step.node_id in self._stopping, step.node_id in self._interrupted
        if interrupted:  # it will start again, and its next end is another matter
            self._stopping.discard(step.node_id)
            self._interrupted.discard(step.node_id)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._inbox.append(self._dispatcher.failure(step, error, told, interrupted))
        elif woken:
            self._inbox.append(NodeSucceeded(step.node_id, {}))
        else:
            result = task.result()
            self._inbox.append(stopped(step, result, told) or success(step.node_id, result))

    def _is_stored_by_worker(self, fact: wire.Fact) -> bool:
        node = self._program.index[fact["nodeId"]]
        kind = self._program.types[node]
        if fact["type"] == wire.EventType.NODE_COMPLETED and (
            "callback" in self._program.nodes[node] or fact["nodeId"] in self._elsewhere
        ):
            return False  # what the answer brought, no worker of ours has seen
        return kind != "sleep" and kind not in CORE_WAITS and kind not in CONTAINER_TYPES

    def _keep_alarm(self) -> None:
        """Keep one timer for the earliest alarm of the state machine."""
        at = self._run.next_alarm
        if at == self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = None if at is None else asyncio.create_task(self._ring(at))

    async def _ring(self, at: int) -> None:
        # No time that somebody named makes a timer that Temporal refuses: one for the far future is set again.
        ms = min(max(at - self._now(), 0), LONGEST_TIMER_MS)
        await workflow.sleep(timedelta(milliseconds=ms), summary="alarm")
        self._alarm_at = self._alarm = None
        self._inbox.append(AlarmRang())

    async def _time_out(self, ms: int) -> None:
        await workflow.sleep(timedelta(milliseconds=max(ms, 0)), summary="timeout of the run")
        self._inbox.append(TimedOut())

    # -- continue-as-new -------------------------------------------------------------------------------------------

    def _in_flight_activities(self) -> int:
        at_work = len(self._in_flight) + len(self._segments) - len(self._wakes)
        return at_work + (self._planner is not None)

    def _holding(self) -> bool:
        """Whether nothing may be started now: too much is not stored yet, or a quiet point is waited for."""
        self._was_full = self._flow.full
        draining = self._draining()
        self._flow.hurry = self._flow.hurry or (draining and not self._in_flight_activities())
        return self._was_full or draining

    def _draining(self) -> bool:
        """Whether a quiet point is waited for: the server suggests to continue as new, or the history is long.

        A node that takes hours would keep everything else waiting, so before the second threshold the wait is short.
        """
        length = workflow.info().get_current_history_length()
        if length >= self._state["historyLimit"]:
            return True
        if not workflow.info().is_continue_as_new_suggested():
            return False
        if self._drain_until is None and length >= self._drain_again_at:
            self._drain_until = workflow.time() + DRAIN_SECONDS
        return self._drain_until is not None

    def _may_continue_as_new(self) -> bool:
        return (
            self._draining()
            and not self._in_flight_activities()
            and not self._inbox
            and self._flow.idle
            and self._desk.idle
            and workflow.all_handlers_finished()
            and not self._run.facts
        )

    def _continue_as_new(self) -> NoReturn:
        state = {
            **{key: self._state[key] for key in _CARRIED if key in self._state},
            "snapshot": self._run.snapshot(),
            "head": self._flow.head,
            "wakes": self._wakes,
            "deadline": self._deadline[0] if self._deadline else None,
            "began": self._began,
            "rejections": self._rejections,
            "program": self._digest,
        }
        workflow.continue_as_new(args=[self._document, state])

    # -- the end ---------------------------------------------------------------------------------------------------

    def _conclude(self) -> dict[str, Any]:
        run = self._run
        result: dict[str, Any] = {"runId": self._run_id, "status": str(run.status), "head": self._flow.head}
        if "child" in self._state and run.spent:
            result["usage"] = run.spent  # counts for the run above, too
        if run.status is RunStatus.FAILED:
            error = dict(run.error or {})
            raise ApplicationError(
                str(error.get("message", "failed")),
                {**result, "error": error},
                type=error.get("type"),
                non_retryable=True,
            )
        if run.status is RunStatus.CANCELLED:
            if self._cancelled:
                raise asyncio.CancelledError
            return {**result, "reason": run.reason, **({"notUndone": len(run.effects)} if run.effects else {})}
        undoable = {"undoable": True} if "child" in self._state and run.undoable else {}
        names = run.all_contributors if "child" in self._state else []
        contributors = {"contributors": names[:MAX_CONTRIBUTORS]} if names else {}
        return {**result, "outputs": run.result, **undoable, **contributors}

    def _show_status(self, before: RunStatus) -> None:
        self._shown = self._run.status
        if before is not RunStatus.PENDING or self._run.status is not RunStatus.RUNNING:
            workflow.upsert_search_attributes([_STATUS.value_set(str(self._run.status))])
