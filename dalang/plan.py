"""The plan: what a user writes, as frozen models.

Wire names are camelCase, in YAML as in JSON. The models hold the *shape* of a plan; what makes a plan sensible
(no cycle, ports that exist, expressions that compile) is ``validation.py``, and what the engine runs is the compact
``program.py``. DESIGN section 2 is the contract, ``docs/plan-reference.md`` is generated from the descriptions here.
"""

from __future__ import annotations

import re
import uuid
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, model_validator

from dalang.canonical import digest
from dalang.durations import Duration
from dalang.plan_base import BackoffStrategy as BackoffStrategy
from dalang.plan_base import Execution as Execution
from dalang.plan_base import Model, Priority
from dalang.plan_base import RetryPolicy as RetryPolicy
from dalang.plan_base import Timeouts as Timeouts
from dalang.plan_budget import Budget
from dalang.plan_containers import Body, LoopSpec, MapSpec
from dalang.plan_human import HumanTask
from dalang.plan_implementation import Implementation as Implementation
from dalang.plan_memory import MemorySpec
from dalang.plan_planner import Planner
from dalang.plan_undo import Compensate, Compensation

MAX_NODES = 100_000
MAX_EDGES = 500_000
MAX_BYTES = 19 * 1024 * 1024
"""The largest plan document that is read, in bytes."""
MAX_ID_LENGTH = 200

PLAN_NAMESPACE = uuid.UUID("6d8a1d1c-2f5c-5c0e-9a53-0f1b6f3f0c11")
"""Namespace of the planIds that are derived from a plan's name, so that its versions belong together."""

SUCCESS_PORT = "success"
ERROR_PORT = "error"
REJECTED_PORT = "rejected"
"""Of human nodes: live when a person rejects what is proposed."""


class FailurePolicy(StrEnum):
    """What an unhandled failure of a node means for the rest of the run."""

    FAIL_FAST = "failFast"
    """Cancel what is in flight, start nothing more, end FAILED."""
    CONTINUE = "continue"
    """Finish what does not depend on the failed node, then end FAILED."""
    PAUSE = "pause"
    """Start nothing more until an operator has decided about the failed node: retry it, skip it, or cancel the run."""
    ESCALATE = "escalate"
    """Ask a person what to do about the failed node, by a human task; what does not depend on it goes on."""


class Resources(Model):
    """What a node takes while it runs."""

    cpu_cores: float = Field(1, ge=0, le=100_000, description="Processor cores.")
    memory_mb: float = Field(512, ge=0, description="Memory in MiB.")
    gpu: float = Field(0, ge=0, le=100_000, description="Graphics processors.")


class PoolNeed(Model):
    """What a node takes of a named pool; a number alone is its amount."""

    amount: float = Field(1, gt=0, le=1e12, description="How much of it, while the node runs.")
    key: str | None = Field(
        None, max_length=4000, description="Each key is a pool of its own; a text that may hold ${...}."
    )

    @model_validator(mode="before")
    @classmethod
    def _amount_alone(cls, data: Any) -> Any:
        is_number = isinstance(data, (int, float)) and not isinstance(data, bool)
        return {"amount": data} if is_number else data


class Requirements(Model):
    """What a node needs of whoever runs it."""

    duration_fields = frozenset({"estimatedDuration"})

    capabilities: tuple[str, ...] = Field((), description="All of these must be offered by the agent.")
    estimated_duration: Duration | None = Field(
        None, description="How long it usually takes; for the critical path and the default timeout."
    )
    resources: Resources | None = Field(None, description="What it takes while it runs.")
    pools: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")], PoolNeed] = Field(
        default_factory=dict, description="What it takes of named pools: `{openai-tpm: 800, staging-db: {key: ...}}`."
    )
    sticky: bool = Field(
        False, strict=True, description="Prefer the agent that the run used before, and wait for it while it is there."
    )


class Port(Model):
    """A named input or output of a node."""

    name: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    type: str = Field("any", description="A JSON type: string, number, integer, boolean, object, array, null or any.")
    required: bool = Field(False, strict=True, description="The value must be there at run time.")
    description: str | None = None
    default_value: Any = Field(None, description="Taken when the value is missing.")


class Descriptor(Model):
    """The interface of a node: ports, capabilities and implementation."""

    id: str | None = None
    version: str | None = None
    name: str | None = None
    description: str | None = None
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    capabilities: tuple[str, ...] = Field((), description="Added to requirements.capabilities.")
    implementation: Implementation | None = None


class Callback(Model):
    """That a node ends when somebody calls back, after its activity has handed out the address."""

    duration_fields = frozenset({"timeout"})

    timeout: Duration | None = Field(
        None, description="How long to wait after the activity has ended; then the node fails with TIMEOUT."
    )


class Node(Model):
    """One step of a plan: an activity, or a wait."""

    node_id: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="Unique in the plan.")
    name: str | None = Field(None, max_length=500, description="For people; default: nodeId.")
    type: str = Field(
        min_length=1,
        max_length=MAX_ID_LENGTH,
        description="A built-in type (noop, sleep, http, agent, human ...), a function registered with @node, or any "
        "name of yours where the descriptor names an implementation.",
    )
    description: str | None = None
    handler: str | None = Field(
        None, description="The registered function of a python node, or the local agent of an agent node."
    )
    descriptor: Descriptor | None = None
    inputs: dict[str, Any] = Field(default_factory=dict, description="Values; ${...} in texts is CEL.")
    task: HumanTask | None = Field(None, description="Of a human node: who is asked, how, and until when.")
    fallback: dict[str, Any] | None = Field(
        None, description="Outputs that stand in when the handler fails for good and suggests FALLBACK."
    )
    interruptible: bool | None = Field(
        None,
        strict=True,
        description="Whether a pause that interrupts may stop it to start it again later. Default: yes for functions "
        "in a worker (python, agent, registered types), no for all others.",
    )
    requirements: Requirements = Requirements()
    retry_policy: RetryPolicy | None = Field(None, description="Default: the plan's maxRetries, else 3 attempts.")
    timeouts: Timeouts = Timeouts()
    compensation: Compensation | None = Field(
        None, description="What undoes the node when the run fails or is cancelled after it may have taken effect."
    )
    pivot: bool = Field(
        False,
        strict=True,
        description="The point of no return: once it succeeded, neither it nor what it depends on is undone, and later"
        " failures wait for an operator.",
    )
    evaluator: bool = Field(
        False,
        strict=True,
        description="Its outputs carry a verdict on what was done: pass, replan (the planner changes the plan) or fail;"
        " with a reason.",
    )
    callback: Callback | None = Field(
        None, description="The node ends when somebody calls its callback URL; of http, agent, python and own types."
    )
    memory: MemorySpec | None = Field(
        None, description="What an agent or a function is given of the past, and where it works apart from others."
    )
    priority: Priority | None = Field(None, description="Among ready nodes, larger first; default: the plan's.")
    execution: Execution | None = Field(
        None,
        description="durable, or local: the node is short and safe to run twice, so that a worker may run several such"
        " nodes forward in one go. Default: the plan's.",
    )
    join: str = Field(
        "allLive",
        max_length=4000,
        description="allLive, all, any, allDone, or a boolean over edge ids: (e1 && e2) || !e3.",
    )
    metadata: dict[str, Any] = Field(default_factory=dict, description="Free; reaches the handler.")
    plan: Body | None = Field(None, description="Of a plan node: an inline plan, or planId or name of a stored one.")
    map: MapSpec | None = Field(None, description="Of a map node: the list, and what runs for each element.")
    loop: LoopSpec | None = Field(None, description="Of a loop node: what is repeated, and until when.")


class Edge(Model):
    """A dependency: when and with what the target may go on after the source."""

    edge_id: str | None = Field(None, min_length=1, max_length=MAX_ID_LENGTH, description="Default: source->target.")
    source_node_id: str
    source_port: str = Field(
        SUCCESS_PORT,
        description="success, error, rejected, or a key of the source's outputs that lights it.",
    )
    target_node_id: str
    target_port: str | None = Field(None, description="The input of the target that takes the source port's value.")
    mapping: dict[str, str] | None = Field(None, description="Output key of the source: input key of the target.")
    condition: str | None = Field(
        None, description="CEL over outputs (or error), inputs, nodes, run; true lights the edge."
    )


class PlanHead(Model):
    """What a plan says besides its nodes and edges."""

    duration_fields = frozenset({"timeout"})

    plan_id: uuid.UUID | None = Field(None, description="Default: derived from the name.")
    name: str = Field(min_length=1, max_length=500)
    version: str = Field("1.0.0", min_length=1, max_length=100, description="A stored version never changes.")
    description: str | None = None
    tenant_id: str | None = Field(None, description="Of the seeds; the token's tenant always wins.")
    priority: Priority = Field(
        0, description="Of the run; larger is served first. low -1, medium 0, high 1, critical 2."
    )
    timeout: Duration | None = Field(None, description="Of the whole run; then it is cancelled with reason TIMEOUT.")
    failure_policy: FailurePolicy = Field(FailurePolicy.FAIL_FAST, description="What an unhandled failure means.")
    compensate: Compensate | None = Field(
        None,
        description="When compensations run: onFailure, onCancel (the timeout too), always, never. Default: after a"
        " failure and after a cancel.",
    )
    max_retries: int | None = Field(
        None, ge=1, le=1000, strict=True, description="maxAttempts of nodes without retryPolicy."
    )
    execution: Execution | None = Field(
        None,
        description="Of nodes that do not say: durable or local; local only where a node can be. Default: local where a"
        " function is registered as light, else durable.",
    )
    max_in_flight: int | None = Field(
        None, ge=1, le=1000, strict=True, description="Nodes RUNNING at once; 1 is sequential."
    )
    planner: Planner | None = Field(
        None, description="Who changes the plan while it runs, when an evaluator or a failure asks for it."
    )
    max_replans: int | None = Field(
        None, ge=1, le=100, strict=True, description="How often the planner is asked in one run. Default: 3."
    )
    budget: Budget | None = Field(None, description="What the run may use before it is paused until it gets more.")
    inputs: dict[str, Any] | None = Field(None, description="JSON Schema of the run's inputs.")
    outputs: dict[str, Any] | None = Field(None, description="The run's outputs; ${...} is CEL.")
    metadata: dict[str, Any] = Field(default_factory=dict)


class Plan(PlanHead):
    """A directed acyclic graph of nodes.

    ``finally`` nodes run when the run has otherwise ended, whatever the end; edges connect them with each other only.
    """

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    finally_: tuple[Node, ...] = Field((), alias="finally", description="Nodes that run at the end, whatever the end.")

    def wire(self) -> dict[str, Any]:
        """Return the plan's JSON form: camelCase names, what equals its default left out, ids filled in."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        data.setdefault("version", self.version)
        data.setdefault("nodes", [])
        return data

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON: two plans with one digest mean the same."""
        return digest(self.wire())

    def all_nodes(self) -> tuple[Node, ...]:
        """Return the nodes and, after them, the ``finally`` nodes."""
        return self.nodes + self.finally_


def derived_plan_id(name: str) -> uuid.UUID:
    """Return the planId of a plan that gives none: versions of one name belong together."""
    return uuid.uuid5(PLAN_NAMESPACE, name)


def with_derived_ids(plan: Plan) -> Plan:
    """Return ``plan`` with planId and edgeIds filled in from its content, so that loading twice gives one digest."""
    seen: dict[str, int] = {edge.edge_id: 1 for edge in plan.edges if edge.edge_id is not None}
    edges = []
    for edge in plan.edges:
        if edge.edge_id is None:
            base = derived_edge_id(edge.source_node_id, edge.source_port, edge.target_node_id)
            count = seen[base] = seen.get(base, 0) + 1
            name = base if count == 1 else f"{base}#{count}"
            seen[name] = seen.get(name, 0) or 1
            edge = edge.model_copy(update={"edge_id": name})
        edges.append(edge)
    return plan.model_copy(update={"plan_id": plan.plan_id or derived_plan_id(plan.name), "edges": tuple(edges)})


def derived_edge_id(source: str, port: str, target: str) -> str:
    """Return what an edge is called that has no id, as long as there is no other such edge."""
    return f"{source}->{target}" if port == SUCCESS_PORT else f"{source}:{port}->{target}"


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_identifier(text: str) -> bool:
    """Tell whether CEL can reach ``text`` with a dot: ``nodes.text`` rather than ``nodes['text']``."""
    return _IDENTIFIER.fullmatch(text) is not None
