"""The wrapper every node's handler runs in: deadline, heartbeat, cancellation, typed errors, JSON at the boundary.

A handler of the user's never blocks the worker: a plain function runs in a thread, a coroutine on an event loop of its
own thread, so that heartbeats and workflow tasks go on whatever it does. The wrapper stops a handler *before* Temporal
gives the attempt up, so that an attempt that was reported as timed out is not still working, as far as that can be had:
a thread cannot be stopped, it is told (``ctx.stopping``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from dalang.activities.artifacts import WorkerArtifacts
from dalang.activities.callbacks import hidden
from dalang.activities.checkpoints import Checkpoints, used_before
from dalang.activities.failures import classify, completed, to_temporal
from dalang.activities.questions import question_of
from dalang.activities.questions import to_temporal as question_to_temporal
from dalang.activities.secrets import Vault, reveal
from dalang.artifacts import Artifacts
from dalang.canonical import compact_json, find_unsafe, safe_text
from dalang.nodes import Answer, AskPerson, InvalidInput, NodeContext, NodeFailure, Undoes
from dalang.wire import (
    AGENT,
    DEFERRED,
    INLINE_BODY_BYTES,
    PERMIT_NODE,
    Checkpoint,
    NodeResult,
    NodeStop,
    NodeTask,
    attempt_number,
)

logger = logging.getLogger("dalang.activities")

Handler = Callable[[NodeContext], Awaitable[Any]]
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
INPUTS_SECONDS = 5.0
"""How long a failed attempt waits until its large inputs are stored."""
STOP_GRACE_SECONDS = 2.0
"""How long a cancelled handler may take to clean up before its end is no longer waited for."""
BEAT_PAUSE_SECONDS = 0.2
"""At least so long between two heartbeats, whatever a handler tells; the SDK sends at most one in a second."""
EFFECT_GRACE_SECONDS = 30.0
"""The same past its deadline where an undo follows: an effect that lands after the undo would stay."""


class Deferred(Exception):
    """The attempt was not begun, since its agent is not there: it is none, and the node asks for somebody else."""

    def to_temporal(self, checkpoint: Checkpoint | None) -> ApplicationError:
        """Return the error that says so to the workflow."""
        reason = safe_text(str(self), 500)
        told = {"until": int(datetime.now(UTC).timestamp() * 1000), "reason": "agent", "short": [reason]}
        return ApplicationError(
            reason,
            told,
            *([] if checkpoint is None else [checkpoint]),
            type=DEFERRED,
            non_retryable=True,
            category=ApplicationErrorCategory.BENIGN,
        )


class Recorder:
    """Where the wrapper leaves what the workflow does not carry: failed attempts, large bodies, checkpoints, log lines.

    ``worker`` is the identity of the process and ``build`` that of its code, which results and attempts name; ``vault``
    has the secrets of nodes, ``artifacts`` their files.

    The base keeps nothing; ``projection.StoreRecorder`` keeps them in Postgres.
    """

    def __init__(
        self, worker: str = "", vault: Vault | None = None, artifacts: Artifacts | None = None, build: str = ""
    ) -> None:
        self.worker = worker
        self.build = build
        self.artifacts = artifacts
        self.vault = vault or Vault()

    async def permit(self, task: NodeTask, attempt: int) -> dict[str, Any] | None:
        """Ask whether the attempt may begin, and return what the event tells of it; raises PolicyViolation."""
        return None

    def made(self, ctx: NodeContext) -> dict[str, Any]:
        """Return what made what the handler answers, as far as is known by now."""
        return {"build": self.build, **ctx._made} if self.build else dict(ctx._made)

    def listening(self, task: NodeTask, attempt: int) -> contextlib.AbstractContextManager[None]:
        """Take what is logged in the block, and in what begins there, for lines of the attempt."""
        return contextlib.nullcontext()

    async def failed_attempt(
        self, task: NodeTask, attempt: int, error: Mapping[str, Any], made: Mapping[str, Any]
    ) -> None:
        """Record one failed attempt; must not raise."""

    async def large_body(self, tenant_id: str, encoded: bytes) -> None:
        """Keep a large value under its digest, waiting while the store is away."""

    async def save_checkpoint(self, task: NodeTask, checkpoint: Checkpoint, encoded: bytes) -> None:
        """Keep a state, unless there is one of a newer attempt; waits while the store is away."""

    async def load_checkpoint(self, task: NodeTask) -> tuple[Checkpoint, bytes] | None:
        """Return the state that is kept for the node; waits while the store is away."""
        return None

    async def callback_url(self, task: NodeTask, attempt: int) -> str:
        """Make the address at which this attempt's answer is taken; waits while the store is away."""
        raise NodeFailure("this worker has no store that could take a callback")


class HandlerLoop:
    """An event loop in a thread of its own, for coroutines that users wrote."""

    def __init__(self, threads: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="node")
        self._thread = threading.Thread(target=self.loop.run_forever, name="handlers", daemon=True)
        self._thread.start()

    async def run(self, make: Callable[[], Any]) -> Any:
        """Call ``make`` there and await what it returns; a cancellation reaches the coroutine and waits for its end."""
        ended: Future[Any] = Future()
        tasks: list[asyncio.Task[Any]] = []

        def begin() -> None:
            tasks.append(self.loop.create_task(self._call(make)))
            tasks[0].add_done_callback(lambda task: _hand_over(task, ended))

        self.loop.call_soon_threadsafe(begin)
        return await _to_its_end(ended, lambda: self.loop.call_soon_threadsafe(lambda: tasks[0].cancel()))

    async def run_in_thread(self, call: Callable[[], Any]) -> Any:
        """Call a plain function in a thread, which no cancellation can stop: its end is waited for all the same."""
        # With what the attempt is about, for lines that the function logs.
        ended = self.threads.submit(contextvars.copy_context().run, _surviving_exit, call)
        return await _to_its_end(ended, ended.cancel)

    @staticmethod
    async def _call(make: Callable[[], Any]) -> Any:
        try:
            result = make()
            return await result if inspect.isawaitable(result) else result
        except (SystemExit, KeyboardInterrupt) as error:
            raise _no_exit(error) from None

    def close(self) -> None:
        """Stop the loop; what still runs there is abandoned, as at the end of the process."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.threads.shutdown(wait=False, cancel_futures=True)


def _hand_over(task: asyncio.Task[Any], ended: Future[Any]) -> None:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


async def _to_its_end(ended: Future[Any], stop: Callable[[], Any]) -> Any:
    """Return what the work gives; cancelled, tell it to stop and go on only when it really has ended."""
    running = asyncio.wrap_future(ended)
    try:
        await asyncio.wait({running})
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # has been seen
        raise
    return running.result()


def _surviving_exit(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise _no_exit(error) from None


def _no_exit(error: BaseException) -> NodeFailure:
    # An exit belongs to the node that asked for it: it must not end the worker, nor the loop that others run on.
    return NodeFailure(f"the handler raised {type(error).__name__}({error})")


def context_of(task: NodeTask, attempt: int, checkpoints: Checkpoints) -> NodeContext:
    """Return what the handler gets to know."""
    return NodeContext(
        node_id=task["nodeId"],
        name=task.get("name", task["nodeId"]),
        type=task["type"],
        run_id=task["runId"],
        tenant_id=task["tenantId"],
        inputs=task["inputs"],
        idempotency_key=task["key"],
        attempt=attempt,
        max_attempts=task["retry"]["attempts"],
        capabilities=tuple(task.get("capabilities", ())),
        metadata=task.get("metadata", {}),
        implementation=task.get("implementation", {}),
        resources=task.get("resources", {}),
        run=task["run"],
        undoes=_undoes(task),
        answer=_answer(task),
        _keep=checkpoints.keep,
    )


def _answer(task: NodeTask) -> Answer | None:
    told = task.get("answer")
    return None if told is None else Answer(told["values"], told["by"], told["task"], told.get("notes"))


def _undoes(task: NodeTask) -> Undoes | None:
    told = task.get("undoes")
    if told is None:
        return None
    return Undoes(told["key"], told["status"], told["inputs"], told["outputs"], told["error"])


async def attempt(task: NodeTask, handler: Handler, recorder: Recorder) -> NodeResult | NodeStop:
    """Run one attempt of a node and return its result; of a cancelled one, what it left for the next.

    Raises:
        ApplicationError: the attempt failed; its first detail is the ErrorPayload, and it says whether to repeat.
    """
    info = activity.info()
    number = attempt_number(task, info.attempt)
    checkpoints = Checkpoints(task, info, recorder)
    ctx = context_of(task, number, checkpoints)
    ctx._used = used_before(info)
    patience = info.heartbeat_timeout.total_seconds() if info.heartbeat_timeout else 5.0
    heartbeat = _Heartbeat(ctx, checkpoints, patience / 3)
    # Beside the handler, and not after it: events refer to large inputs of nodes that fail or are cut off, too.
    inputs_kept = _Keeping(task["tenantId"], task["inputs"], recorder)
    try:
        ctx.restored = await checkpoints.restore()
        permitted = await recorder.permit(task, number)
        if task.get("callback"):
            ctx.callback_url = await recorder.callback_url(task, number)
        if not _is_for_others(task, info.activity_type):
            await reveal(ctx, task, recorder.vault)
        if recorder.artifacts is not None:
            ctx.artifacts = WorkerArtifacts(recorder.artifacts, task, recorder.worker)
        with recorder.listening(task, number):
            given = await _within_deadline(task, ctx, handler)
        outputs = ctx._mask(hidden(given, ctx.callback_url))  # the mask of now: handlers get secrets on the way, too
        result: NodeResult = {"outputs": outputs, "attempt": number, "worker": recorder.worker}
        if permitted is not None:
            result["policy"] = permitted
        if ctx._used:
            result["usage"] = ctx._used
        if made := recorder.made(ctx):
            result["made"] = made
        await inputs_kept.done()
        await _Keeping(task["tenantId"], outputs, recorder).done()
        return result
    except asyncio.CancelledError as cancelled:
        await inputs_kept.settle(STOP_GRACE_SECONDS)
        await checkpoints.settle(patient=False)
        _beat(ctx, checkpoints)
        stop: NodeStop = {"stopped": True}
        if checkpoints.record is not None:
            stop["checkpoint"] = checkpoints.record
        if isinstance(cancelled, _StillWorking):
            stop["until"] = cancelled.until
        if ctx._used:
            stop["usage"] = ctx._used
        if len(stop) == 1 or not is_wanted_to_stop():
            raise
        return stop
    except AskPerson as asked:
        await inputs_kept.settle(INPUTS_SECONDS)
        await checkpoints.settle(patient=True)
        _beat(ctx, checkpoints)
        raise question_to_temporal(question_of(asked, ctx), number - 1, checkpoints.record, ctx._used) from None
    except Deferred as deferred:
        raise deferred.to_temporal(checkpoints.record) from None
    except Exception as error:
        payload = completed(classify(error, ctx._mask), ctx.node_id, ctx.run_id, number, ctx.max_attempts)
        payload = hidden(payload, ctx.callback_url)
        logger.info("attempt %d of node %s failed", number, ctx.node_id, exc_info=error)
        if ctx.undoes is None:  # of an undo the event tells; rows of attempts are about the work
            await recorder.failed_attempt(task, number, payload, recorder.made(ctx))
        await inputs_kept.settle(INPUTS_SECONDS)
        await checkpoints.settle(patient=True)
        _beat(ctx, checkpoints)
        # Without its cause: the SDK would send that one's text too, which may be what no payload can hold.
        raise to_temporal(payload, task["retry"], number, checkpoints.record, ctx._used) from None
    finally:
        ctx._stop.set()
        heartbeat.stop()
        inputs_kept.close()
        checkpoints.close()


def _is_for_others(task: NodeTask, activity_type: str) -> bool:
    """Tell whether the work may be done elsewhere, where no secret of ours goes; ``AgentWork`` decides about agents."""
    return activity_type == PERMIT_NODE or (activity_type == AGENT and "agent" in task)


def is_wanted_to_stop() -> bool:
    """Tell whether the workflow had the activity cancelled; else it is the worker that ends, or time is up."""
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested


def goes_on_elsewhere() -> bool:
    """Tell a handler that is cancelled whether another attempt takes over what it began: its worker ends, or was lost.

    Else nobody wants it any more, or its time is up, and what it began elsewhere is to be stopped.
    """
    with contextlib.suppress(RuntimeError):  # outside of an activity
        details = activity.cancellation_details()
        return details is not None and not details.cancel_requested
    return False


async def _within_deadline(task: NodeTask, ctx: NodeContext, handler: Handler) -> dict[str, Any]:
    """Return the handler's outputs; one that is cancelled or out of time is stopped, and its end waited for.

    Where the node can be undone, a handler that does not stop is waited for as long as it may work and some time more,
    so that the undo does not come before the effect.
    """
    work = asyncio.ensure_future(handler(ctx))
    seconds = task["startToCloseMs"] / 1000
    deadline = asyncio.get_running_loop().time() + seconds
    grace = EFFECT_GRACE_SECONDS if task.get("undoable") else 0.0
    try:
        done, _ = await asyncio.wait({work}, timeout=seconds)
    except asyncio.CancelledError:
        left = deadline - asyncio.get_running_loop().time()
        await _stop(work, ctx, left + grace if grace else STOP_GRACE_SECONDS)
        if not work.done():
            raise _StillWorking(deadline - asyncio.get_running_loop().time()) from None
        raise
    if not done:
        await _stop(work, ctx, max(grace, STOP_GRACE_SECONDS))
        raise TimeoutError(f"the handler did not end within {seconds:g} s")
    if work.cancelled():
        raise NodeFailure("the handler was cancelled from inside")
    try:
        return checked_outputs(work.result())
    except AskPerson as asked:
        question_of(asked, ctx)  # what cannot be asked is a failure of the handler
        raise


class _StillWorking(asyncio.CancelledError):
    """The handler was told to stop and has not; ``until`` its deadline it may be at work (milliseconds, epoch)."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.until = int((datetime.now(UTC).timestamp() + max(seconds, 0)) * 1000)


async def _stop(work: asyncio.Future[Any], ctx: NodeContext, patience: float) -> None:
    ctx._stop.set()
    work.cancel()
    with contextlib.suppress(BaseException):
        await asyncio.wait({work}, timeout=patience)


class _Heartbeat:
    """Tells Temporal that this worker is alive, every so many seconds and soon after there is something new to tell.

    A cancel of the activity comes back with the answer. Timers and no task: most attempts end before the first beat.
    """

    def __init__(self, ctx: NodeContext, checkpoints: Checkpoints, every: float) -> None:
        self._ctx, self._checkpoints = ctx, checkpoints
        self._every = max(every, BEAT_PAUSE_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._rested = 0.0
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(self._every, self._beat)
        checkpoints.changed = self._soon

    def _soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_at(max(self._loop.time(), self._rested), self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        self._rested = now + BEAT_PAUSE_SECONDS
        self._timer = self._loop.call_at(now + self._every, self._beat)
        _beat(self._ctx, self._checkpoints)

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _beat(ctx: NodeContext, checkpoints: Checkpoints) -> None:
    """Send progress and checkpoint. A heartbeat replaces the one before, so what an earlier attempt left goes along."""
    if activity.info().is_local:
        return  # within a workflow task nobody hears it
    progress, checkpoint = dict(ctx._progress), checkpoints.record
    if ctx._used:
        progress["usage"] = ctx._used
    activity.heartbeat(*([progress, checkpoint] if checkpoint is not None else [progress] if progress else []))


def checked_outputs(value: Any) -> dict[str, Any]:
    """Return a handler's return value as outputs.

    Raises:
        InvalidInput: it is no JSON, or too large (VALIDATION_ERROR: the same handler would return it again).
    """
    outputs = {} if value is None else value if isinstance(value, dict) else {"result": value}
    unsafe = find_unsafe(outputs)
    if unsafe is not None:
        raise InvalidInput(f"the handler returned what is not JSON: outputs{unsafe[0]} {unsafe[1]}")
    return outputs


class _Keeping:
    """A value that events refer to when it is large, on its way to where it is kept; of a small one nothing is."""

    def __init__(self, tenant_id: str, value: dict[str, Any], recorder: Recorder) -> None:
        encoded = compact_json(value) if value else b""
        self._size = len(encoded)
        self._work: asyncio.Task[None] | None = None
        if INLINE_BODY_BYTES <= self._size <= MAX_OUTPUT_BYTES:
            self._work = asyncio.create_task(recorder.large_body(tenant_id, encoded))

    async def done(self) -> None:
        """Wait until it is kept.

        Raises:
            InvalidInput: it is too large for that.
        """
        if self._size > MAX_OUTPUT_BYTES:
            raise InvalidInput(f"the outputs have {self._size:,} bytes; at most {MAX_OUTPUT_BYTES:,} are carried")
        if self._work is not None:
            await self._work

    async def settle(self, seconds: float) -> None:
        """Wait so long until it is kept, or cannot be."""
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=seconds)

    def close(self) -> None:
        """It is not waited for any more."""
        if self._work is not None:
            self._work.cancel()
