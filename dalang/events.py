"""What the state machine is told (events) and what it answers (steps). Plain frozen data; see ``run.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dalang.program import Program
from dalang.wire import AgentRoute, Checkpoint, HumanAnswer, Question


@dataclass(frozen=True, slots=True)
class Begin:
    """The workflow accepted its input; the run starts, with ``seed`` (``revival.py``) from what another run came to."""

    seed: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NodeSucceeded:
    """The activity or timer of ``node`` ended with ``outputs`` at its ``attempt``-th attempt.

    ``notes`` is what else is worth recording about it (worker, durations); it becomes data of the fact. ``undoable``
    says of a container that the run below it did what can be undone.
    """

    node: str
    outputs: Mapping[str, Any]
    attempt: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)
    undoable: bool = False


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """``node`` failed for good; ``error`` is an ErrorPayload in wire form.

    ``lost`` says that nobody heard its handler end: it may be at work until its own deadline.
    ``checkpoint`` is what its handler left last. ``cut_short``: the attempt would have been repeated, had the node not
    been interrupted.
    """

    node: str
    error: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)
    lost: bool = False
    checkpoint: Checkpoint | None = None
    cut_short: bool = False


@dataclass(frozen=True, slots=True)
class NodeStopped:
    """``node`` acknowledged a ``Stop``.

    ``checkpoint`` is what its handler left last. ``until`` says that the handler did not stop and may be at work until
    then, in milliseconds since the epoch.
    """

    node: str
    notes: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """An operator wants nothing new to start; ``mode`` says what becomes of what is in flight: drain or interrupt."""

    operator: str | None = None
    reason: str | None = None
    mode: str = "drain"


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """An operator ends a pause."""

    operator: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """An operator wants the run to end."""

    operator: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The plan's ``timeout`` has passed."""


@dataclass(frozen=True, slots=True)
class AlarmRang:
    """The time of :attr:`Run.next_alarm` has come."""


@dataclass(frozen=True, slots=True)
class ExternalEvent:
    """Something happened outside; the node that has waited longest for this name and key ends with ``payload``.

    An ``event_id`` that was heard before says that this is the same event again, which changes nothing.
    """

    name: str
    correlation_key: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    event_id: str | None = None
    operator: str | None = None


@dataclass(frozen=True, slots=True)
class CallbackReceived:
    """Somebody called back about the work of ``generation`` of ``node``: it succeeded with ``outputs``, or ``error``.

    ``callback_id`` says which call it is: the same call may be told more than once.
    """

    node: str
    callback_id: str
    generation: int = 0
    outputs: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LeaseAnswered:
    """How the ``ask``-th ask of ``node`` stands: WAITING (for what is ``short``), GRANTED (with an agent), REFUSED.

    ``route`` says where the work of that agent is begun, if not as ever.
    """

    node: str
    ask: int
    state: str
    agent: str | None = None
    short: tuple[str, ...] = ()
    reason: str | None = None
    route: AgentRoute | None = None


@dataclass(frozen=True, slots=True)
class NodeDeferred:
    """An attempt of ``node`` was not begun: it may be after ``until`` (milliseconds since the epoch).

    ``reason`` says in a word what it waits for, ``short`` in particular. ``attempts`` were made before, all in all, and
    ``checkpoint`` is what the last of them left; ``notes`` become data of the fact.
    """

    node: str
    until: int
    reason: str
    short: tuple[str, ...] = ()
    attempts: int = 0
    checkpoint: Checkpoint | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PersonAsked:
    """The handler of ``node`` asks a person and has ended; ``question`` (``wire.Question``) says what.

    ``attempts`` failed before, all in all, and ``checkpoint`` is what the handler left last; ``notes`` become data of
    the fact.
    """

    node: str
    question: Question
    attempts: int = 0
    checkpoint: Checkpoint | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """What became of one node of a segment: when it began and ended, in milliseconds since the epoch, and how."""

    began: int
    ended: int
    end: NodeSucceeded | NodeFailed | NodeStopped


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """The segment ``number`` is over: what a worker did, in that order.

    ``alone`` are nodes that have to go by themselves; ``lost`` says that nobody knows what the worker did.
    """

    number: int
    entries: Sequence[SegmentEntry] = ()
    alone: Sequence[str] = ()
    lost: bool = False


@dataclass(frozen=True, slots=True)
class RetryRequested:
    """An operator has a failed node that waits for a decision run again; ``inputs`` replace its inputs key by key."""

    node: str
    inputs: Mapping[str, Any] | None = None
    operator: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SkipRequested:
    """An operator skips a node that has not started, or that failed and waits for a decision.

    With ``outputs`` its edges light as after a success, else they are dead.
    """

    node: str
    outputs: Mapping[str, Any] | None = None
    operator: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PlanRevised:
    """The next revision of the plan is made from revision ``base``: valid, compiled, and its document stored.

    ``digest`` is the plan's; ``diff`` and ``counts`` say what changes (``plan_diff.py``). ``known`` holds, by node id,
    ``outputs`` and ``error`` of ended nodes that the new program reads and the old one did not.
    """

    program: Program
    digest: str
    base: int
    diff: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    operator: str | None = None
    reason: str | None = None
    planning: int | None = None
    """The number of the MakePlan that this answers."""


@dataclass(frozen=True, slots=True)
class ReplanFailed:
    """No revision came of the MakePlan with the number ``planning``: ``error`` is an ErrorPayload in wire form.

    ``problems`` say what was wrong with the planner's answer; it is asked again with them, unless this is ``final``.
    """

    planning: int
    error: Mapping[str, Any]
    problems: Sequence[Mapping[str, Any]] = ()
    final: bool = False


@dataclass(frozen=True, slots=True)
class UndoSucceeded:
    """The compensation of ``node`` did its work; ``outputs`` are for the record."""

    node: str
    outputs: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UndoFailed:
    """The compensation of ``node`` failed for good; ``error`` is an ErrorPayload in wire form."""

    node: str
    error: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskDecided:
    """A person decides a human task by one of its actions.

    ``values`` fill in its form; ``outputs`` are those of an edit or a skip, ``inputs`` those of a retry. ``digest`` is
    that of what the person was shown, ``groups`` those the person is in (None: not known). The same ``decision_id``
    again changes nothing and is answered as the first time.
    """

    task: str
    action: str
    operator: str
    digest: str | None = None
    values: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] | None = None
    inputs: Mapping[str, Any] | None = None
    notes: str | None = None
    groups: Sequence[str] | None = None
    decision_id: str | None = None


@dataclass(frozen=True, slots=True)
class TaskClaimed:
    """A person takes a human task."""

    task: str
    operator: str
    groups: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class TaskReleased:
    """Whoever has a human task gives it back; with ``override`` anybody may."""

    task: str
    operator: str
    groups: Sequence[str] | None = None
    override: bool = False


@dataclass(frozen=True, slots=True)
class TaskDelegated:
    """A human task is given ``to`` a person, ``to_group``, or both; with ``override`` anybody may."""

    task: str
    operator: str
    to: str | None = None
    to_group: str | None = None
    groups: Sequence[str] | None = None
    override: bool = False


@dataclass(frozen=True, slots=True)
class BudgetRaised:
    """Somebody gives the run another budget; what is None stays as it is, ``wall_time`` is in milliseconds."""

    tokens: int | None = None
    cost: float | None = None
    nodes: int | None = None
    wall_time: int | None = None
    operator: str | None = None
    reason: str | None = None

    def limits(self) -> dict[str, Any]:
        """Return the new limits by measure."""
        given = {"tokens": self.tokens, "cost": self.cost, "nodes": self.nodes, "wallTime": self.wall_time}
        return {measure: limit for measure, limit in given.items() if limit is not None}


@dataclass(frozen=True, slots=True)
class TenantBudgetSpent:
    """The tenant has used what it may use on this day, which ends at ``until`` (milliseconds since the epoch)."""

    measure: str
    limit: float
    spent: float
    until: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that was malformed or came at the wrong time: recorded, and nothing else."""

    request: str
    reason: str


Event = (
    Begin
    | NodeSucceeded
    | NodeFailed
    | NodeStopped
    | PauseRequested
    | ResumeRequested
    | CancelRequested
    | TimedOut
    | AlarmRang
    | ExternalEvent
    | CallbackReceived
    | LeaseAnswered
    | NodeDeferred
    | PersonAsked
    | SegmentEnded
    | RetryRequested
    | SkipRequested
    | PlanRevised
    | ReplanFailed
    | UndoSucceeded
    | UndoFailed
    | TaskDecided
    | TaskClaimed
    | TaskReleased
    | TaskDelegated
    | BudgetRaised
    | TenantBudgetSpent
    | Rejected
)


@dataclass(frozen=True, slots=True)
class Start:
    """Begin node number ``node`` with ``inputs``; it is RUNNING from now on.

    ``generation`` is part of the idempotency key: the same work is asked for again under the same one. ``starts``
    counts its earlier starts, and ``checkpoint`` is what the last of them left; ``answer`` is what a person said whom
    its handler asked.
    Of a container ``child`` is the id of the run that is to be started below it, and ``iteration`` that of a loop.
    With a ``lease`` (the number of its ask) it is one attempt, the ``attempt``-th, of which ``agent`` is to do the work
    if there is one, at the place that ``route`` names.
    """

    node: int
    node_id: str
    type: str
    inputs: Mapping[str, Any]
    generation: int = 0
    iteration: int = 0
    child: str | None = None
    starts: int = 0
    checkpoint: Checkpoint | None = None
    lease: int | None = None
    agent: str | None = None
    attempt: int = 1
    route: AgentRoute | None = None
    answer: HumanAnswer | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the activity or timer of a node in flight; answered by NodeStopped, or by its end if that was first.

    ``interrupt``: it will start again, so an attempt that fails meanwhile is not its end.
    """

    node_id: str
    interrupt: bool = False


@dataclass(frozen=True, slots=True)
class Undo:
    """Undo what ``undoes`` says of node number ``node``; answered by UndoSucceeded or UndoFailed, and never stopped.

    ``compensation`` says how, as in the program, but with the retry policy itself. ``generation`` is that of the work
    which is undone; ``undoes`` holds its key, status, inputs, outputs and error. ``below`` is the finished run below a
    container that is to be undone, of its ``iteration``; nothing else is said of it then.
    """

    node: int
    node_id: str
    compensation: Mapping[str, Any]
    inputs: Mapping[str, Any]
    generation: int
    undoes: Mapping[str, Any]
    iteration: int = 0
    below: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for a lease for a node; answered by LeaseAnswered, more than once where it waits."""

    node: int
    node_id: str
    ask: int
    needs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The node needs the lease of its ``ask``-th ask no more, whether it holds it or waits for it; never answered."""

    node_id: str
    ask: int


@dataclass(frozen=True, slots=True)
class RunSegment:
    """Run these nodes forward together, as far as one can get; answered by SegmentEnded with this ``number``.

    ``part`` is what a worker needs of the run (:class:`~dalang.segments.Ahead`).
    """

    number: int
    nodes: Sequence[str]
    part: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StopSegment:
    """Begin no more nodes of the segment ``number``; it is answered by what was done until then."""

    number: int


@dataclass(frozen=True, slots=True)
class MakePlan:
    """Ask the plan's planner for the next revision; answered by PlanRevised or ReplanFailed with this ``number``.

    ``causes`` say what asks for it, ``problems`` what was wrong with the answer of the attempt before.
    """

    number: int
    attempt: int
    causes: Sequence[Mapping[str, Any]]
    problems: Sequence[Mapping[str, Any]] = ()


Step = Start | Stop | Undo | Ask | GiveBack | RunSegment | StopSegment | MakePlan
