"""Validation: everything that is wrong with a plan, at once.

:func:`validate` reads a plan's document in Dalang's own form and reports every problem with a JSON Pointer into it, a
stable code (``codes.CODES``) and a sentence that says what to do. Errors refuse the plan, warnings do not. Every check
takes linear time, or as good as, recurses into nothing, and is bounded in what it reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dalang.plan import MAX_EDGES, MAX_NODES, Plan, with_derived_ids
from dalang.validation.codes import CODES
from dalang.validation.containers import check_containers
from dalang.validation.execution import check_execution
from dalang.validation.human_tasks import check_human_tasks
from dalang.validation.implementations import check_implementations
from dalang.validation.input_schema import check_input_schema
from dalang.validation.memory import check_memory
from dalang.validation.node_types import check_node_types
from dalang.validation.planner import check_planner
from dalang.validation.ports import check_ports
from dalang.validation.references import check_references
from dalang.validation.report import MAX_PROBLEMS, Problems, Report
from dalang.validation.run_inputs import inputs_problems, with_input_defaults
from dalang.validation.secrets import check_secrets
from dalang.validation.shape import Shape, parse
from dalang.validation.structure import build_draft, check_structure
from dalang.validation.timing import check_requirements, check_timing
from dalang.validation.undo import check_undo

__all__ = ["CODES", "MAX_PROBLEMS", "Report", "inputs_problems", "validate", "with_input_defaults"]


def validate(
    document: Mapping[str, Any] | Plan,
    *,
    node_types: Iterable[str] | None = None,
    agents: Iterable[Iterable[str]] | None = None,
) -> Report:
    """Return what is wrong with ``document``, a plan's wire form or model, and the plan if nothing refuses it.

    ``node_types`` are the registered node types beside the built-in ones; None stands for unknown, and types are not
    checked then. ``agents`` are the capabilities of each registered agent; None leaves requirements unchecked.
    Pointers lead into the document, for a model into its wire form. Raises nothing.
    """
    problems = Problems()
    given: Any = _document(document) if isinstance(document, Plan) else document
    if not isinstance(given, Mapping):
        problems.error("NOT_AN_OBJECT", (), "A plan is an object with a name and nodes.")
        return Report(None, problems.listed())
    types = None if node_types is None else frozenset(node_types)
    validation = _Validation(types, None if agents is None else [frozenset(agent) for agent in agents])
    plan = validation.check(given, problems)
    return Report(None if problems.failed else plan, problems.listed())


class _Validation:
    """One validation: what is known of the outside, and how many nodes and edges all plans in it have together."""

    def __init__(self, node_types: frozenset[str] | None, agents: list[frozenset[str]] | None) -> None:
        self._node_types = node_types
        self._agents = agents
        self._nodes = 0
        self._edges = 0

    def check(self, document: Mapping[str, Any], problems: Problems, depth: int = 1) -> Plan | None:
        """Check a plan that is ``depth`` deep, and all that are in it; return it if nothing is against it."""
        shape = parse(dict(document), problems)
        if shape is None or not self._fits(shape, problems):
            return None
        draft = build_draft(shape, problems)
        check_structure(draft, shape.has_nodes, problems)
        check_node_types(draft, self._node_types, problems)
        check_execution(draft, problems)
        check_implementations(draft, self._node_types, problems)
        check_undo(draft, self._node_types, problems)
        check_planner(draft, self._node_types, problems)
        check_human_tasks(draft, problems)
        check_memory(draft, problems)
        check_secrets(draft, problems)
        check_ports(draft, problems)
        check_references(draft, problems)
        check_timing(draft, problems)
        if self._agents is not None:
            check_requirements(draft, self._agents, problems)
        if shape.head.inputs is not None:
            check_input_schema(shape.head.inputs, problems)
        check_containers([*shape.nodes, *shape.finally_], depth, problems, self.check)
        return None if problems.failed else _plan(shape)

    def _fits(self, shape: Shape, problems: Problems) -> bool:
        """Count a plan; one too many is refused, and not looked into."""
        self._nodes += len(shape.nodes) + len(shape.finally_)
        self._edges += len(shape.edges)
        for what, count, limit in (("nodes", self._nodes, MAX_NODES), ("edges", self._edges, MAX_EDGES)):
            if count > limit:
                message = f"The plan and those in it have more than {limit:,} {what} together."
                problems.error(f"TOO_MANY_{what.upper()}", (what,), message)
                return False
        return True


def _document(plan: Plan) -> dict[str, Any]:
    """Return the wire form without turning what is no JSON into JSON: that is to be found."""
    document = plan.model_dump(mode="python", by_alias=True, exclude_defaults=True)
    if plan.plan_id is not None:
        document["planId"] = str(plan.plan_id)
    return document


def _plan(shape: Shape) -> Plan:
    """Return the plan of a shape without problems, whose edges have their ids."""
    parts = {
        "nodes": tuple(item.model for item in shape.nodes),
        "finally_": tuple(item.model for item in shape.finally_),
        "edges": tuple(item.model for item in shape.edges),
    }
    head = {name: getattr(shape.head, name) for name in type(shape.head).model_fields}
    return with_derived_ids(Plan(name=shape.head.name).model_copy(update={**head, **parts}))
