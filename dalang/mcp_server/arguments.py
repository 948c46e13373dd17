"""What the tools take: the models that their JSON Schemas are made of. What is not described here is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from dalang.statuses import NodeStatus, RunStatus

MAX_WAIT = 50
Plan = Annotated[
    dict[str, Any] | str,
    Field(description="The plan: a JSON object, or YAML text. read_guide tells how it is written."),
]
RunId = Annotated[UUID, Field(description="The run's id, as start_run and list_runs give it.")]
TaskId = Annotated[UUID, Field(description="The task's id, as list_tasks gives it.")]
Reason = Annotated[str | None, Field(max_length=2_000, description="Why; it is recorded in the run's audit trail.")]
NodeId = Annotated[str, Field(description="The node's id in the plan.")]
Key = Annotated[
    str | None,
    Field(max_length=255, description="The same key with the same arguments returns the run started before."),
]
Limit = Annotated[int, Field(ge=1, le=200, description="Items at most.")]
Cursor = Annotated[str | None, Field(description="`next` of the page before.")]


class Arguments(BaseModel):
    """The arguments of a tool."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Nothing(Arguments):
    """No arguments."""


class OnePlan(Arguments):
    """A plan."""

    plan: Plan


class Rehearsal(Arguments):
    """A plan, and what is assumed about it."""

    plan: Plan
    options: dict[str, Any] = Field(
        default_factory=dict,
        description='A rehearsal file\'s content: {"runs": 200, "inputs": {...}, "nodes": {"<nodeId>": {"duration":'
        ' "uniform(1m,3m)", "failures": {"rate": 0.1}}}, "agents": {"<name>": 2}, "pools": {"<name>": 4}}.',
    )


class Start(Arguments):
    """Which plan, with what."""

    plan: Annotated[dict[str, Any] | str | None, Field(description="A plan to run without storing it.")] = None
    plan_id: UUID | None = Field(None, description="Or the id of a stored plan.")
    plan_name: str | None = Field(None, description="Or the exact name of a stored plan.")
    plan_version: str | None = Field(None, description="Of a stored plan; default: the highest version.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="Checked against the plan's `inputs` schema.")
    priority: int | str | None = Field(None, description="An integer, or low, normal, high, critical.")
    metadata: dict[str, Any] | None = Field(None, description="Free; handlers of nodes can read it.")
    idempotency_key: Key = None

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        if sum(one is not None for one in (self.plan, self.plan_id, self.plan_name)) != 1:
            raise ValueError("give one of plan, planId and planName")
        return self


class Runs(Arguments):
    """Which runs."""

    status: list[RunStatus] = Field(default_factory=list, description="Any of these.")
    active: bool | None = Field(None, description="true: those that have not ended; false: those that have.")
    plan: str | None = Field(None, description="A part of the plan's name.")
    parent_run_id: UUID | None = Field(None, description="Only runs below plan, map and loop nodes of this run.")
    limit: Limit = 20
    cursor: Cursor = None


class Look(Arguments):
    """Which run, how long to wait for it, and what of it to show."""

    run_id: RunId
    wait_seconds: int = Field(
        0, ge=0, le=MAX_WAIT, description="Wait so long for its end, or until it is paused or needs a person."
    )
    nodes: bool = Field(True, description="With its nodes and their statuses.")
    node_status: list[NodeStatus] = Field(default_factory=list, description="Only nodes with one of these statuses.")
    node_id: str | None = Field(
        None, description="Instead of all nodes this one in detail: inputs, outputs, error, failed attempts, progress."
    )
    events: int = Field(0, ge=0, le=200, description="With so many of its newest events.")
    bodies: bool = Field(False, description="Events with inputs, outputs and errors of nodes.")


class Control(Arguments):
    """Which run, and why."""

    run_id: RunId
    reason: Reason = None


class Pause(Control):
    """What becomes of what is in flight."""

    mode: Literal["drain", "interrupt"] = Field(
        "drain",
        description="drain: nodes in flight end. interrupt: they are stopped where that is safe, to start again later.",
    )


class Redrive(Arguments):
    """Which finished run is started again, and from where."""

    run_id: RunId
    from_nodes: list[str] | None = Field(
        None,
        min_length=1,
        description="Ids of the nodes that run again, with all that follows them. Default: the failed ones.",
    )
    inputs: dict[str, dict[str, Any]] | None = Field(
        None, description="By node id: what replaces inputs of a node that runs again, key by key."
    )
    reason: Reason = None
    idempotency_key: Key = None


class Retry(Control):
    """Which failed node runs again."""

    node_id: NodeId
    inputs: dict[str, Any] | None = Field(None, description="Replace inputs of the node, key by key.")


class Skip(Control):
    """Which node is skipped."""

    node_id: NodeId
    outputs: dict[str, Any] | None = Field(
        None, description="Stand in for the node's outputs; without them what follows the node is skipped, too."
    )


class Replan(Arguments):
    """The next plan of a run."""

    run_id: RunId
    patch: dict[str, Any] | None = Field(
        None,
        description="What to change, any of: addNodes, replaceNodes, addEdges (lists of nodes and edges as in a plan),"
        " removeNodes, removeEdges (lists of ids; that of an edge is by default <source>-><target>), changeInputs"
        " ({<nodeId>: {<input>: value}}), set ({<field of the plan>: value}).",
    )
    plan: Annotated[dict[str, Any] | str | None, Field(description="Or a whole plan of the same name.")] = None
    expected_revision: int | None = Field(None, ge=1, description="Refused when the plan is at another one by now.")
    dry_run: bool = Field(False, description="Only tell whether it could be done, and what it would change.")
    reason: Reason = None

    @model_validator(mode="after")
    def _one_change(self) -> Self:
        if (self.patch is None) == (self.plan is None):
            raise ValueError("give either patch or plan")
        return self


class Tasks(Arguments):
    """Which tasks."""

    open: bool | None = Field(True, description="true: those that can be decided; false: those that have ended.")
    mine: bool = Field(False, description="Only those that the owner of this token could decide.")
    run_id: UUID | None = Field(None, description="Only tasks of this run.")
    limit: Limit = 20
    cursor: Cursor = None


class OneTask(Arguments):
    """Which task."""

    task_id: TaskId


class Decision(Arguments):
    """What is decided about a task."""

    task_id: TaskId
    action: str = Field(description="One of the task's `actions`: approve, reject, edit, retry, skip, abort, ...")
    digest: str = Field(
        pattern="^[0-9a-f]{64}$", description="`digest` of the task as get_task showed it: what was read is decided."
    )
    values: dict[str, Any] | None = Field(None, description="What the task's `form`, a JSON Schema, asks for.")
    outputs: dict[str, Any] | None = Field(None, description="Of edit and skip: outputs in place of the node's.")
    inputs: dict[str, Any] | None = Field(None, description="Of retry: replace the node's inputs key by key.")
    notes: Reason = None


class Plans(Arguments):
    """Which stored plans."""

    name: str | None = Field(None, description="A part of the name.")
    limit: Limit = 20
    cursor: Cursor = None
