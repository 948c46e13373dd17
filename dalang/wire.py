"""Names and payloads that cross a process boundary: workflow, activities, signals, updates, queries, events.

Everything here is recorded in Temporal histories and in Postgres, so a name is never given a new meaning: a change
gets a new name. Payloads are plain JSON (``dict``), since the ``temporal`` CLI and workers of other languages write
them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from dalang.canonical import MAX_INTEGER
from dalang.event_types import EventType as EventType

ENGINE_VERSION = 9
"""Stands in the input of every run: the meaning a history was made with.

1: a handler that wants a person holds the whole run; skipping with outputs takes them as they are.
2: it raises a human task instead, and outputs have to satisfy the node's ports.
3: a signal is judged in its turn, and not as it arrives, when signals before it may not have been worked off.
4: a run stores nothing for a moment, and its last batch within the workflow task that ends it.
5: batches of facts are packed and hold more, segments have more nodes.
6: a small segment of nodes that end within two seconds is worked on within the workflow task.
7: while nodes end quickly, it stores its events in larger steps.
8: one that was kept waiting for its first task keeps its first events for longer.
9: inputs that somebody replaced are not evaluated; the nodes of a segment that brought nothing go alone.
"""
ENGINE_VERSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9)
"""Those that this version of Dalang goes on with."""

PLAN_RUN = "PlanRun"
"""The type of the one generic workflow."""
RECORD = "record"
"""The activity that stores transitions (``activities/projection.py``)."""
PREPARE_REVISION = "prepare_revision"
"""The activity that makes the next revision of a run's plan (``activities/revisions.py``)."""
LOAD_PLAN = "load_plan"
"""The activity that returns a run's plan, for its planner."""
SEGMENT = "segment"
"""Activity: runs connected light nodes forward (``SegmentInput``)."""
ADMIT = "admit"
"""The activity that asks for leases and gives them back (``activities/admission.py``)."""
SEED_UNDO = "seed_undo"
"""The activity that reads what a finished run did, for the run that undoes it (``activities/undoing.py``)."""
PERMIT_NODE = "permit_node"
"""The activity that goes before one on a task queue of others: policies are asked, large inputs kept."""
PLANNER = "(planner)"
"""Stands for the node in a planner's task and in its failed attempts: it is none of the plan's."""
PLANNER_INPUTS = ("plan", "revision", "runInputs", "causes", "statuses", "problems")
"""What a planner is told, beside its own inputs."""
AGENT = "agent"
"""The activity of nodes that agents take which ask for work."""
WORKFLOW_ID_PREFIX = "run-"

SCHEDULED_RUN = "ScheduledRun"
"""The type of the workflow that a schedule starts; it starts a run and ends with it."""
START_SCHEDULED_RUN = "start_scheduled_run"
AWAIT_SCHEDULED_RUN = "await_scheduled_run"
"""Its activities (``activities/scheduled_run.py``)."""

SIGNAL_PAUSE = UPDATE_PAUSE = "pause"
SIGNAL_RESUME = UPDATE_RESUME = "resume"
SIGNAL_CANCEL = UPDATE_CANCEL = "cancel"
SIGNAL_EXTERNAL_EVENT = UPDATE_EXTERNAL_EVENT = "external_event"
DEFERRED = "DEFERRED"
"""Type of the error with which a worker says that it did not begin an attempt: it is none.

Its first detail is ``{until, reason, short, attempts}``: when it may begin (milliseconds since the epoch), what is
waited for in a word and in particular, how many attempts the node has made. A second one is its checkpoint.
"""
ASKS_PERSON = "ASKS_PERSON"
"""Type of the error with which a worker says that the handler asks a person: no attempt failed.

Its first detail is ``{question, attempts}``: a :class:`Question`, and how many attempts the node has made before. A
second one is its checkpoint, a third what it has used.
"""
SIGNAL_LEASES = "leases"
"""News of what was granted: ``{"leases": [...]}``, from whoever ran the grant pass."""
SIGNAL_REPLAN = UPDATE_REPLAN = "replan"
SIGNAL_CALLBACK = UPDATE_CALLBACK = "callback"
UPDATE_RAISE_BUDGET = "raise_budget"
UPDATE_RETRY_NODE = "retry_node"
UPDATE_SKIP_NODE = "skip_node"
SIGNAL_COMPLETE_TASK = UPDATE_COMPLETE_TASK = "complete_human_task"
SIGNAL_CLAIM_TASK = UPDATE_CLAIM_TASK = "claim_human_task"
SIGNAL_RELEASE_TASK = UPDATE_RELEASE_TASK = "release_human_task"
SIGNAL_DELEGATE_TASK = UPDATE_DELEGATE_TASK = "delegate_human_task"
SIGNALS = (
    SIGNAL_PAUSE,
    SIGNAL_RESUME,
    SIGNAL_CANCEL,
    SIGNAL_EXTERNAL_EVENT,
    SIGNAL_CALLBACK,
    SIGNAL_REPLAN,
    SIGNAL_COMPLETE_TASK,
    SIGNAL_CLAIM_TASK,
    SIGNAL_RELEASE_TASK,
    SIGNAL_DELEGATE_TASK,
)
"""All that a run listens to."""
QUERY_STATUS = "status"
QUERY_NODES = "nodes"
QUERY_PLAN = "plan"
QUERY_TASKS = "tasks"


_NODE = "node:"


def activity_id(node_id: str) -> str:
    """Return the id of a node's activity: the node's, unless it looks like one that the SDK makes itself (numbers).

    Two activities of one id under way would be refused by Temporal for ever, with the task that asks for them.
    """
    return f"{_NODE}{node_id}" if node_id.isdigit() or node_id.startswith(_NODE) else node_id


def node_of_activity(activity: str) -> str:
    """Return the node whose activity has this id."""
    return activity.removeprefix(_NODE)


class RunAuthority(TypedDict):
    """What a run knows of who may speak to it (``authority.py``), in its state: public keys in base64, by id.

    Without it in a run's state - older runs, an installation without keys - everybody is who he says he is.
    """

    required: bool
    keys: dict[str, str]


class Fact(TypedDict):
    """One transition as the workflow numbers it.

    ``at`` is workflow time in milliseconds since the epoch. ``data`` is small and structural (statuses, reasons,
    counts); ``body`` is what a user may want erased (inputs, outputs, error), by reference when it is large.
    """

    seq: int
    type: str
    at: int
    nodeId: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    body: NotRequired[dict[str, Any]]


class Head(TypedDict):
    """The last stored event of a run's chain; seq 0 and an empty hash before the first."""

    epoch: int
    seq: int
    hash: str


class Recorded(Head):
    """Result of ``record``: the head, and what of the tenant's budget of the day is spent, if it is.

    ``over`` holds ``measure``, ``limit``, ``spent`` and ``until`` (milliseconds since the epoch). ``signature`` is
    there for who reads Temporal's history: no workflow looks at it.
    """

    signature: NotRequired[str]
    over: NotRequired[dict[str, Any]]


class ChildLink(TypedDict):
    """What a run below a node is to the runs above it; ``elements`` is a number for the run of a map only."""

    parentRunId: str
    parentNodeId: str
    topRunId: str
    iteration: int
    generation: int
    keyRoot: str
    planDigest: str
    totalNodes: int
    elements: int | None
    undoOf: NotRequired[str]


class RunIdentity(ChildLink):
    """What the row of a run below a node is made from: nobody else writes one."""

    planId: str
    planName: str
    planVersion: str
    createdBy: str
    priority: int
    metadata: dict[str, Any]


class UndoSeedInput(TypedDict):
    """Input of ``seed_undo``: the run below ``runId`` is to be undone by another one, with this program and inputs."""

    tenantId: str
    runId: str
    program: dict[str, Any]
    inputs: dict[str, Any]
    about: dict[str, Any]


class PackedFacts(TypedDict):
    """Facts as ``fact_packing.py`` packs them: [type, data] by kind, times from ``at`` on, numbers as they follow."""

    kinds: list[list[Any]]
    at: int
    facts: list[list[Any]]


class RecordInput(TypedDict):
    """Input of the ``record`` activity: a batch of facts that follows ``head``.

    ``status`` and ``counts`` are the run's when the batch was made, which may be after its last fact; the newest wins
    in the read model, but that the run has ended is told by the fact that says so, or the ``final`` batch.
    ``packed`` has the facts where ``facts`` has none.
    ``final`` says that no more will follow. ``identity`` comes with the first batch of a run below a node.
    """

    runId: str
    tenantId: str
    head: Head
    facts: list[Fact]
    status: str
    counts: dict[str, int]
    final: bool
    packed: NotRequired[PackedFacts]
    identity: NotRequired[RunIdentity]


class Checkpoint(TypedDict):
    """A state that a handler left, as heartbeats (their second detail) and the workflow carry it.

    Without ``state`` it is large and stands in the table ``node_checkpoints``. ``begun`` is when the server started
    the ``attempt`` that left it, ``at`` when it did, in milliseconds since the epoch; ``number`` counts those of an
    attempt, so that (begun, number) orders all checkpoints of a node. ``size`` is that of its JSON in bytes.
    """

    begun: int
    attempt: int
    number: int
    at: int
    size: int
    state: NotRequired[Any]


def is_checkpoint(value: Any) -> bool:
    """Tell whether ``value`` is a :class:`Checkpoint`: a worker of another language may have sent anything."""
    numbers = ("begun", "attempt", "number", "at", "size")
    known = isinstance(value, Mapping) and all(type(value.get(name)) is int for name in numbers)
    return known and all(0 <= value[name] <= MAX_INTEGER for name in numbers)


class Undoes(TypedDict):
    """What a compensation undoes: how its node ended, and with what; ``key`` is the one the work was done under."""

    key: str
    status: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    error: dict[str, Any]


def idempotency_key(root: str, node_id: str, iteration: int, generation: int) -> str:
    """Return the key that a node's work is done under; ``root`` is the run's id, or what stands for it."""
    return f"{root}:{node_id}:{iteration}:{generation}"


class RevisionRequest(TypedDict):
    """Input of ``prepare_revision``: the plan's revision that ``change`` (``patch`` or ``plan``) is made of.

    ``plan`` is its digest, None for the plan the run was started with; ``priority`` is the run's. With ``dryRun``
    nothing is stored. What a planner asks for (``byPlanner``) may not change who is given secrets.
    """

    runId: str
    tenantId: str
    revision: int
    plan: str | None
    priority: int
    change: dict[str, Any]
    dryRun: bool
    byPlanner: NotRequired[bool]


class PreparedRevision(TypedDict):
    """Result of ``prepare_revision``: the new program and what it changes, or only the ``problems`` of the request.

    ``known`` holds outputs and errors of ended nodes that the new program reads and the old did not; ``places`` leads
    from ``nodes/<id>`` and ``edges/<id>`` to where the request has them.
    """

    problems: NotRequired[list[dict[str, Any]]]
    program: NotRequired[dict[str, Any]]
    digest: NotRequired[str]
    diff: NotRequired[dict[str, Any]]
    counts: NotRequired[dict[str, int]]
    known: NotRequired[dict[str, dict[str, Any]]]
    places: NotRequired[dict[str, str]]
    warnings: NotRequired[list[dict[str, Any]]]


class Question(TypedDict):
    """What the handler of a node asks a person: ``text`` (Markdown), and the ``form`` (JSON Schema) of the answer.

    ``context`` is shown beside it; ``assignee`` or ``group`` says whom it asks, ``dueMs`` how long it waits for him.
    """

    text: str
    title: NotRequired[str]
    form: NotRequired[dict[str, Any]]
    context: NotRequired[dict[str, Any]]
    assignee: NotRequired[str]
    group: NotRequired[str]
    dueMs: NotRequired[int]


class HumanAnswer(TypedDict):
    """What a person answered: the ``values`` of the form, ``by`` whom, in which ``task``."""

    task: str
    values: dict[str, Any]
    by: str
    notes: NotRequired[str]


class NodeTask(TypedDict):
    """Input of the activity of a node: everything its worker needs, in any language.

    ``key`` is the idempotency key, the same for every attempt of a ``generation`` (0, until a node is undone or run
    anew); ``startToCloseMs`` is how long the handler may take; ``retry`` is the node's retry policy as in the program.
    ``starts`` counts the earlier starts of this generation (an interrupt, an operator's retry); ``checkpoint`` is what
    the last of them left, as far as the workflow knows it. ``attempt`` (1) is the number of the activity's first one.
    """

    runId: str
    tenantId: str
    nodeId: str
    type: str
    inputs: dict[str, Any]
    key: str
    generation: int
    startToCloseMs: int
    retry: dict[str, Any]
    run: dict[str, Any]
    attempt: NotRequired[int]
    agent: NotRequired[str]
    name: NotRequired[str]
    handler: NotRequired[str]
    capabilities: NotRequired[list[str]]
    metadata: NotRequired[dict[str, Any]]
    implementation: NotRequired[dict[str, Any]]
    memory: NotRequired[dict[str, Any]]
    """What it is to be given of the past, and where it works apart (``plan_memory.py``); an agent gets what it is given
    instead: ``{episodes, session}``."""
    resources: NotRequired[dict[str, float]]
    evaluator: NotRequired[bool]
    """The node's outputs carry a verdict."""
    secrets: NotRequired[dict[str, list[str]]]
    """Where its inputs refer to secrets, and by which names (``secret_references.py``)."""
    callback: NotRequired[bool]
    """The node ends when somebody calls the address that its worker makes for it."""
    iteration: NotRequired[int]
    starts: NotRequired[int]
    checkpoint: NotRequired[Checkpoint]
    answer: NotRequired[HumanAnswer]
    """To the last question that the handler asked a person in this generation."""
    undoable: NotRequired[bool]
    """Whether the node has a compensation: its end is reported only when the handler has really ended."""
    undoes: NotRequired[Undoes]
    """Only of a compensation."""


def attempt_number(task: NodeTask, of_activity: int) -> int:
    """Return which attempt of its node this is: its number in its activity, after those of activities before."""
    return task.get("attempt", 1) + of_activity - 1


class NodeStop(TypedDict):
    """Result of the activity of a node that was cancelled and left a checkpoint, or whose handler did not stop.

    ``until`` is then its deadline, in milliseconds since the epoch. It is a result, since the SDK gives a cancelled
    activity's error no details.
    """

    stopped: bool
    checkpoint: NotRequired[Checkpoint]
    until: NotRequired[int]
    usage: NotRequired[dict[str, Any]]


class NodeResult(TypedDict):
    """Result of the activity of a node. ``worker`` is the identity of the process it ran in."""

    outputs: dict[str, Any]
    attempt: NotRequired[int]
    worker: NotRequired[str]
    policy: NotRequired[dict[str, Any]]
    """The decision that let the attempt begin, where a rule made one: ``{effect, rule}``."""
    usage: NotRequired[dict[str, Any]]
    """What all attempts of the activity have used: ``{tokens, cost}``."""
    made: NotRequired[dict[str, Any]]
    """What made the outputs: ``build`` of the worker, ``implementation``, ``model`` (``dalang/made.py``)."""


class AgentRoute(TypedDict):
    """Where the work of an agent is begun that is no function of Dalang's workers; it comes with the grant.

    ``taskQueue`` is that of a Temporal worker of its own, where ``activity`` (default: the node's type) is started with
    a NodeTask of less than ``maxBytes``; it sends heartbeats at least every ``heartbeatMs``, or none. Without a
    ``taskQueue`` the ``activity`` is one of Dalang's.
    """

    taskQueue: NotRequired[str]
    activity: NotRequired[str]
    heartbeatMs: NotRequired[int]
    maxBytes: NotRequired[int]


class LeaseAsk(TypedDict):
    """What one node asks for: amounts by pool, an agent with all ``capabilities``; ``lastsMs`` is its longest use."""

    nodeId: str
    ask: int
    amounts: dict[str, float]
    capabilities: list[str]
    priority: int
    rank: int
    sticky: bool
    lastsMs: int


class LeaseDone(TypedDict):
    """A lease that is not needed any more, held or still waited for."""

    nodeId: str
    ask: int


class AdmitInput(TypedDict):
    """Input of ``admit``: what is asked for and given back in one call."""

    runId: str
    tenantId: str
    asks: list[LeaseAsk]
    done: list[LeaseDone]


class ScheduledStart(TypedDict):
    """Input of ``ScheduledRun``, in Temporal's schedule; which plan is started with what stands in Postgres.

    ``key`` and ``revision`` are those of the schedule's row when Temporal's schedule was made from it.
    """

    tenantId: str
    scheduleId: str
    key: str
    revision: int


class ScheduledStartAt(ScheduledStart):
    """Input of ``start_scheduled_run``: ``at`` is the scheduled time, in milliseconds since the epoch."""

    at: int


class ScheduledStarted(TypedDict):
    """Result of ``start_scheduled_run``, and input of ``await_scheduled_run``.

    Without ``runId`` nothing was started, and ``skipped`` says why.
    """

    tenantId: str
    runId: NotRequired[str]
    skipped: NotRequired[str]


class ScheduledEnd(TypedDict):
    """Result of ``await_scheduled_run``: how the run ended, with the type and message of its error."""

    status: str
    errorType: NotRequired[str]
    message: NotRequired[str]


INLINE_BODY_BYTES = 8 * 1024
"""Inputs and outputs from this size on are stored by the node's worker, and events refer to them by digest."""
