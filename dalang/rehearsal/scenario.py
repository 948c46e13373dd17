"""A plan made ready to be rehearsed: what every node will do, what is scarce, and what had to be assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dalang.admission import Admission, Agent
from dalang.canonical import pointer
from dalang.compilation import compile_plan
from dalang.errors import InvalidDocument, Problem
from dalang.needs import CAPABILITY, UNLEASED, sizes_of, wanted_capabilities
from dalang.nesting import CONTAINER_TYPES
from dalang.plan import Plan, with_derived_ids
from dalang.rehearsal.assumptions import (
    RehearsedProgram,
    condition_reads,
    declared_outputs,
    echoes,
    nulls,
    output_reads,
    placeholder,
    template_reads,
    unknown_nodes,
)
from dalang.rehearsal.attempts import Behaviour
from dalang.rehearsal.distributions import Distribution, fixed
from dalang.rehearsal.options import Assumed, Options
from dalang.rehearsal.waits import NEVER_FAIL, lasts_as_written
from dalang.validation import inputs_problems, with_input_defaults

_NOTHING = Assumed()
_SHOWN = 6


@dataclass(frozen=True)
class Scenario:
    """What is rehearsed. ``warnings`` say what was assumed; their pointers lead into the plan."""

    plan: Plan
    options: Options
    program: RehearsedProgram
    behaviours: tuple[Behaviour, ...]
    admission: Admission
    inputs: Mapping[str, Any]
    about: Mapping[str, Any]
    chances: tuple[tuple[int, float], ...]
    """(edge, probability that its condition holds), where that is given."""
    warnings: tuple[Problem, ...]
    limited: frozenset[str] = frozenset()
    """The names of what is limited, as a run looks them up."""


def _unchanging(plan: Plan) -> Plan:
    """Return the plan without its planner: what that would answer nobody knows, so every verdict is that of a pass."""
    if plan.planner is None and not any(node.evaluator for node in plan.nodes):
        return plan
    nodes = tuple(node.model_copy(update={"evaluator": False}) for node in plan.nodes)
    return plan.model_copy(update={"planner": None, "nodes": nodes})


def prepare(plan: Plan, options: Options) -> Scenario:
    """Make a valid plan ready.

    Raises:
        InvalidDocument: the options name what the plan has not, or the inputs are not what it asks for.
    """
    plan = _unchanging(with_derived_ids(plan))
    program = RehearsedProgram(compile_plan(plan.model_copy(update={"budget": None})))
    _refuse_unknown_names(program, options)
    warnings: list[Problem] = []
    inputs = _inputs(plan, options, warnings)
    admission = Admission(
        options.pools, [Agent(name, one.capacity, one.capabilities) for name, one in options.agents.items()]
    )
    places = _Places(plan)
    outcomes = _known_outcomes(plan, program, options)
    unknown = unknown_nodes(program, outcomes)
    chances = tuple((program.edge_ids.index(edge), share) for edge, share in options.edges.items())
    _decide_conditions(program, options, unknown, {edge for edge, _ in chances}, places, warnings)
    _leave_inputs(program, unknown, places, warnings)
    behaviours = []
    untimed: list[int] = []
    for node in range(len(program.ids)):
        said = outcomes.get(program.ids[node], ((1.0, nulls(program, node) if node in unknown else {}),))
        behaviour = _behaviour(program, options, admission, node, said, untimed)
        if behaviour.never is not None:
            text = f"It fails with RESOURCE_EXHAUSTED: {behaviour.never}."
            warnings.append(_warning("NEVER_ADMITTED", places.node(node), text, program.ids[node]))
        behaviours.append(behaviour)
    if untimed:
        names = ", ".join(program.ids[node] for node in untimed[:_SHOWN])
        names += f" and {len(untimed) - _SHOWN:,} more" if len(untimed) > _SHOWN else ""
        text = f"Nothing says how long these take, so each takes {options.default_duration}: {names}."
        warnings.append(_warning("ASSUMED_DURATION", places.node(untimed[0]), text))
    about = {"id": "rehearsal", "plan": plan.name, "planVersion": plan.version, "tenantId": "rehearsal"}
    offered = {name for agent in admission.agents for name in (agent.name, *agent.capabilities)}
    limited = frozenset([*options.pools, *(CAPABILITY + name for name in offered)])
    return Scenario(
        plan, options, program, tuple(behaviours), admission, inputs, about, chances, tuple(warnings), limited
    )


def _warning(code: str, where: str, message: str, node: str | None = None, edge: str | None = None) -> Problem:
    return Problem(pointer=where, code=code, message=message, severity="warning", node_id=node, edge_id=edge)


class _Places:
    """Where nodes and edges stand in the plan."""

    def __init__(self, plan: Plan) -> None:
        self._main = len(plan.nodes)

    def node(self, node: int, *below: str) -> str:
        if node < self._main:
            return pointer("nodes", node, *below)
        return pointer("finally", node - self._main, *below)

    def edge(self, edge: int, *below: str) -> str:
        return pointer("edges", edge, *below)


def _refuse_unknown_names(program: RehearsedProgram, options: Options) -> None:
    problems = []
    for field, names, known in (
        ("nodes", options.nodes, program.index),
        ("types", options.types, dict.fromkeys(program.types)),
        ("edges", options.edges, dict.fromkeys(program.edge_ids)),
    ):
        for name in names:
            if name not in known:
                message = f"The plan has no {field[:-1]} {name!r}."
                problems.append(Problem(pointer=pointer(field, name), code="UNKNOWN_NAME", message=message))
    for edge in options.edges:
        if edge in program.edge_ids and program.conditions[program.edge_ids.index(edge)] is None:
            message = f"The edge {edge!r} has no condition that could hold or not."
            problems.append(Problem(pointer=pointer("edges", edge), code="NO_CONDITION", message=message))
    if problems:
        raise InvalidDocument(problems, "rehearsal file")


def _inputs(plan: Plan, options: Options, warnings: list[Problem]) -> dict[str, Any]:
    """Return the run's inputs, with placeholders for what the plan requires and nobody gave."""
    inputs = with_input_defaults(plan, options.inputs)
    schema = plan.inputs or {}
    required, properties = schema.get("required"), schema.get("properties")
    names = required if isinstance(required, Sequence) and not isinstance(required, str) else ()
    assumed = []
    for name in names:
        if isinstance(name, str) and name not in inputs:
            about = properties.get(name) if isinstance(properties, Mapping) else None
            inputs[name] = placeholder(about if isinstance(about, Mapping) else {})
            assumed.append(name)
    found = [
        problem
        for problem in inputs_problems(plan, inputs)
        if not any((problem.pointer + "/").startswith(pointer(name) + "/") for name in assumed)
    ]
    if any(problem.severity == "error" for problem in found):
        raise InvalidDocument(found, "inputs")
    for name in assumed:
        text = f"The input {name!r} is required and not given; {inputs[name]!r} is assumed."
        warnings.append(_warning("ASSUMED_INPUT", pointer("inputs", "properties", name), text))
    return inputs


def _known_outcomes(
    plan: Plan, program: RehearsedProgram, options: Options
) -> dict[str, tuple[tuple[float, Mapping[str, Any]], ...]]:
    """Return, by node, what its outputs are with which weight, where that is given or declared."""
    declared = declared_outputs(plan)
    known: dict[str, tuple[tuple[float, Mapping[str, Any]], ...]] = {}
    for node_id, kind in zip(program.ids, program.types, strict=True):
        given = _given(options, node_id, kind, "outcomes", "outputs")
        if given is not None and given.outcomes is not None:
            total, made = 0.0, []
            for outcome in given.outcomes:
                total += outcome.weight
                made.append((total, outcome.outputs))
            known[node_id] = tuple(made)
        elif given is not None and given.outputs is not None:
            known[node_id] = ((1.0, given.outputs),)
        elif node_id in declared and kind != "noop":
            known[node_id] = ((1.0, declared[node_id]),)
    return known


def _given(options: Options, node_id: str, kind: str, *fields: str) -> Assumed | None:
    """Return what says any of ``fields`` of a node: itself, else its type."""
    for assumed in (options.nodes.get(node_id), options.types.get(kind)):
        if assumed is not None and any(getattr(assumed, field) is not None for field in fields):
            return assumed
    return None


def _decide_conditions(
    program: RehearsedProgram,
    options: Options,
    unknown: set[int],
    given: set[int],
    places: _Places,
    warnings: list[Problem],
) -> None:
    live = options.unknown_conditions == "live"
    for edge, condition in enumerate(program.conditions):
        if condition is None or edge in given:
            continue
        reads = [node for node in condition_reads(program, edge) if node in unknown]
        if reads:
            name = program.ids[reads[0]]
            text = (
                f"It reads outputs of {name!r} that nobody gave, so it is assumed {'' if live else 'not '}to hold."
                f" Give the outputs of the node, or how often the edge {program.edge_ids[edge]!r} is live."
            )
            where = places.edge(edge, "condition")
            warnings.append(_warning("ASSUMED_CONDITION", where, text, edge=program.edge_ids[edge]))
            program.decided[edge] = live


def _leave_inputs(program: RehearsedProgram, unknown: set[int], places: _Places, warnings: list[Problem]) -> None:
    unread = []
    for node in range(len(program.ids)):
        reads = [source for source in template_reads(program, node) if source in unknown]
        if reads:
            unread.append(node)
            text = f"They read outputs of {program.ids[reads[0]]!r} that nobody gave, so they are not evaluated."
            warnings.append(_warning("ASSUMED_INPUTS", places.node(node, "inputs"), text, program.ids[node]))
    outputs = any(source in unknown for source in output_reads(program))
    if outputs:
        text = "They read outputs that nobody gave, so they are not evaluated."
        warnings.append(_warning("ASSUMED_INPUTS", pointer("outputs"), text))
    program.leave_unread(unread, outputs=outputs)


def _behaviour(
    program: RehearsedProgram,
    options: Options,
    admission: Admission,
    node: int,
    outcomes: tuple[tuple[float, Mapping[str, Any]], ...],
    untimed: list[int],
) -> Behaviour:
    document, node_id, kind = program.nodes[node], program.ids[node], program.types[node]
    timed = _given(options, node_id, kind, "duration")
    waits = kind in NEVER_FAIL
    if timed is not None:
        duration = timed.duration
    elif lasts_as_written(document):
        duration = None
    elif "estimate" in document:
        duration = fixed(document["estimate"])
    elif kind == "noop":
        duration = fixed(0)
    else:
        duration = options.default_duration
        untimed.append(node)
    failing = _given(options, node_id, kind, "failures")
    crashing = _given(options, node_id, kind, "crashes")
    crashes = (crashing.crashes if crashing is not None else None) or 0.0
    approving = _given(options, node_id, kind, "approval")
    start_to_close, schedule_to_close, heartbeat = document["timeouts"]
    holds = kind in CONTAINER_TYPES  # no lease: what runs in it has its own
    given = None if waits or holds else _given(options, node_id, kind, "needs")
    extra = (given.needs if given is not None else None) or {}
    capabilities, amounts = _needs(document)
    demand = None if waits or holds else admission.demand(capabilities, {**amounts, **extra})
    return Behaviour(
        duration=duration,
        outcomes=outcomes,
        echoes=echoes(document) and _given(options, node_id, kind, "outputs", "outcomes") is None,
        # A wait is the workflow's own: it is not lost and does not fail by a fault.
        faults=() if waits or failing is None else failing.failures or (),
        crashes=0.0 if waits or holds else crashes if crashing is not None else options.crashes,
        retry=program.retries[document["retry"]],
        start_to_close=start_to_close,
        schedule_to_close=schedule_to_close,
        heartbeat=heartbeat,
        demand=demand,
        extra=extra,
        never=None if demand is None else admission.never(demand),
        undo=_undo(document, options, node_id, kind),
        approval=1.0 if approving is None or approving.approval is None else approving.approval,
    )


def _undo(document: Mapping[str, Any], options: Options, node_id: str, kind: str) -> Distribution:
    """Return how long a node's compensation takes."""
    given = _given(options, node_id, kind, "undo")
    if given is not None and given.undo is not None:
        return given.undo
    return fixed(0) if document.get("compensation", {}).get("type") == "noop" else options.default_duration


def _needs(document: Mapping[str, Any]) -> tuple[list[str], dict[str, float]]:
    """Return what a node needs, as ``dalang.needs`` has it, but for the keys of pools: all are of one size."""
    if document["type"] in UNLEASED:
        return [], {}
    named = {name: amount for name, (amount, _) in document.get("pools", {}).items()}
    return wanted_capabilities(document), {**sizes_of(document), **named}
