"""The shape of a plan's document. Every node and edge is parsed by itself, so that none hides what another has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dalang.canonical import find_unsafe
from dalang.plan import (
    MAX_EDGES,
    MAX_NODES,
    Descriptor,
    Edge,
    Implementation,
    Node,
    PlanHead,
    Port,
    Requirements,
    Resources,
    RetryPolicy,
    Timeouts,
)
from dalang.plan_budget import Budget
from dalang.plan_containers import LoopSpec, MapSpec
from dalang.plan_human import Escalation, HumanTask
from dalang.plan_implementation import Limits
from dalang.plan_memory import MemorySpec, SessionSpec
from dalang.plan_planner import Planner
from dalang.plan_undo import Compensation
from dalang.validation import later
from dalang.validation.report import Problems, Steps, kind_of, shown

M = TypeVar("M", bound=BaseModel)

_LISTS = ("nodes", "edges", "finally", "finally_")
_MAX_ERRORS_OF_ONE = 25
_PARTS: Mapping[str, type[BaseModel]] = {
    "requirements": Requirements,
    "resources": Resources,
    "retryPolicy": RetryPolicy,
    "timeouts": Timeouts,
    "compensation": Compensation,
    "planner": Planner,
    "budget": Budget,
    "descriptor": Descriptor,
    "implementation": Implementation,
    "limits": Limits,
    "task": HumanTask,
    "escalation": Escalation,
    "inputs": Port,
    "outputs": Port,
    "map": MapSpec,
    "memory": MemorySpec,
    "session": SessionSpec,
    "loop": LoopSpec,
}
_NAMES: Mapping[type[BaseModel], str] = {PlanHead: "a plan", Node: "a node", Edge: "an edge", Port: "a port"}
_EDGES = "an edge, in the plan's `edges`"
_ELSEWHERE: Mapping[type[BaseModel], Mapping[str, str]] = {
    PlanHead: {"id": "`planId`", "steps": "`nodes`", "tasks": "`nodes`", "jobs": "`nodes`", "retries": "`maxRetries`"},
    Node: {
        **dict.fromkeys(("dependsOn", "depends_on", "dependencies", "needs", "after", "parents"), _EDGES),
        **dict.fromkeys(("retries", "retry", "maxRetries", "max_retries"), "`retryPolicy`"),
        **dict.fromkeys(("params", "parameters", "with", "args", "arguments"), "`inputs`"),
        **dict.fromkeys(("uses", "kind"), "`type`"),
        **dict.fromkeys(("when", "if", "condition"), "the `condition` of an edge"),
        "id": "`nodeId`",
        "timeout": "`timeouts: {startToClose: ...}`",
    },
    Edge: {
        **dict.fromkeys(("source", "from", "from_"), "`sourceNodeId`"),
        **dict.fromkeys(("target", "to"), "`targetNodeId`"),
        "id": "`edgeId`",
    },
    RetryPolicy: {"backoff": "`backoffStrategy`", "delay": "`initialDelay`"},
}
"""What fields are called here that people know by other names, of other systems."""
_WANTED = {
    "string_type": "a text",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "mapping_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


@dataclass(slots=True)
class Item(Generic[M]):
    """A node or an edge where it stands; ``model`` is None if it is malformed."""

    steps: Steps
    raw: Mapping[str, Any]
    model: M | None

    def text(self, alias: str, name: str) -> str | None:
        """Return the text that a malformed item has in a field, if it has one."""
        value = self.raw.get(alias, self.raw.get(name))
        return value if isinstance(value, str) and value else None


@dataclass(slots=True)
class Shape:
    """A document's parts."""

    head: PlanHead
    nodes: list[Item[Node]]
    finally_: list[Item[Node]]
    edges: list[Item[Edge]]
    has_nodes: bool
    """Whether there is at least one node, well-formed or not."""


def parse(document: Mapping[str, Any], problems: Problems) -> Shape | None:
    """Return the parts of ``document``, or None where it is not worth looking further."""
    if not _check_json(document, problems):
        return None
    lists = {name: _entries(document, name, problems) for name in ("nodes", "edges", "finally")}
    count = len(lists["nodes"]) + len(lists["finally"])
    if count > MAX_NODES:
        problems.error("TOO_MANY_NODES", ("nodes",), f"The plan has {count:,} nodes; at most {MAX_NODES:,} are read.")
    if len(lists["edges"]) > MAX_EDGES:
        edges = len(lists["edges"])
        problems.error("TOO_MANY_EDGES", ("edges",), f"The plan has {edges:,} edges; at most {MAX_EDGES:,} are read.")
    if problems.failed and (count > MAX_NODES or len(lists["edges"]) > MAX_EDGES):
        return None
    head = _head({key: value for key, value in document.items() if key not in _LISTS}, problems)
    return Shape(
        head=head,
        nodes=[item for entry in lists["nodes"] if (item := _node(*entry, problems)) is not None],
        finally_=[item for entry in lists["finally"] if (item := _node(*entry, problems)) is not None],
        edges=[edge for entry in lists["edges"] if (edge := _edge(*entry, problems)) is not None],
        has_nodes=bool(lists["nodes"]),
    )


def _check_json(document: Mapping[str, Any], problems: Problems) -> bool:
    unsafe = find_unsafe(document)
    if unsafe is None:
        return True
    # What is wrong with the rest cannot be said safely, but every part that is no JSON can be named.
    found: list[tuple[str, str]] = []
    for name, value in document.items():
        parts = enumerate(value) if name in _LISTS and isinstance(value, (list, tuple)) else [(None, value)]
        for index, part in parts:
            inner = find_unsafe(part)
            if inner is not None and isinstance(name, str):
                place = _pointer_text(name) + ("" if index is None else f"/{index}") + inner[0]
                found.append((place, inner[1]))
            if len(found) >= _MAX_ERRORS_OF_ONE:
                break
    for place, reason in found or [unsafe]:
        problems.error("NOT_JSON", _steps_of(place), f"The value {reason}.")
    return False


def _pointer_text(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _steps_of(place: str) -> Steps:
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in place.split("/")[1:])


def _entries(document: Mapping[str, Any], name: str, problems: Problems) -> list[tuple[Steps, Any]]:
    key = "finally_" if name == "finally" and name not in document and "finally_" in document else name
    value = document.get(key, ())
    if not isinstance(value, (list, tuple)):
        problems.error("WRONG_TYPE", (key,), f"`{key}` is a list, not {kind_of(value)}.")
        return []
    return [((key, index), entry) for index, entry in enumerate(value)]


def _head(raw: dict[str, Any], problems: Problems) -> PlanHead:
    raw = later.take_plan_fields(raw, problems)
    try:
        return PlanHead.model_validate(raw)
    except ValidationError as error:
        wrong = {_key(raw, details["loc"][0]) for details in error.errors(include_url=False) if details["loc"]}
        _report(error, PlanHead, raw, (), problems)
    # The fields that are right are still worth checking against the nodes.
    kept = {"name": "plan", **{key: value for key, value in raw.items() if key not in wrong}}
    try:
        return PlanHead.model_validate(kept)
    except ValidationError:
        return PlanHead(name="plan")


def _node(steps: Steps, raw: Any, problems: Problems) -> Item[Node] | None:
    if not isinstance(raw, dict):
        problems.error("WRONG_TYPE", steps, f"A node is an object with nodeId and type, not {kind_of(raw)}.")
        return None
    item: Item[Node] = Item(steps, raw, None)
    node_id = item.text("nodeId", "node_id")
    known = later.take_node_fields(raw, steps, problems, node_id)
    try:
        item.model = Node.model_validate(known)
    except ValidationError as error:
        _report(error, Node, known, steps, problems, node=node_id)
        item.model = _without_unknown(error, Node, known)
        kind = known.get("type")
        if item.model is None and isinstance(kind, str):
            later.refuse_type(kind, (*steps, "type"), problems, node_id)
    return item


def _edge(steps: Steps, raw: Any, problems: Problems) -> Item[Edge] | None:
    if not isinstance(raw, dict):
        message = f"An edge is an object with sourceNodeId and targetNodeId, not {kind_of(raw)}."
        problems.error("WRONG_TYPE", steps, message)
        return None
    item: Item[Edge] = Item(steps, raw, None)
    try:
        item.model = Edge.model_validate(raw)
    except ValidationError as error:
        _report(error, Edge, raw, steps, problems, edge=item.text("edgeId", "edge_id"))
        item.model = _without_unknown(error, Edge, raw)
    return item


def _without_unknown(error: ValidationError, model: type[M], raw: Mapping[str, Any]) -> M | None:
    """Return the model without its unknown fields, if there is nothing else against it: the rest is worth checking."""
    found = error.errors(include_url=False)
    if any(details["type"] != "extra_forbidden" or len(details["loc"]) != 1 for details in found):
        return None
    unknown = {details["loc"][0] for details in found}
    try:
        return model.model_validate({key: value for key, value in raw.items() if key not in unknown})
    except ValidationError:
        return None


def _report(
    error: ValidationError,
    model: type[BaseModel],
    raw: Mapping[str, Any],
    base: Steps,
    problems: Problems,
    node: str | None = None,
    edge: str | None = None,
) -> None:
    for details in error.errors(include_url=False, include_context=True)[:_MAX_ERRORS_OF_ONE]:
        steps, owner = _place(details, model, raw)
        code, message = _sentence(details, steps, owner, problems)
        problems.error(code, (*base, *steps), message, node, edge)


def _key(raw: Mapping[str, Any], step: str | int) -> str | int:
    """Return the key of the field ``step`` in the document: camelCase, snake_case or in milliseconds."""
    if not isinstance(step, str) or step in raw:
        return step
    snake = "".join(f"_{char.lower()}" if char.isupper() else char for char in step)
    return next((name for name in (snake, step + "Ms") if name in raw), step)


def _place(details: ErrorDetails, model: type[BaseModel], raw: Any) -> tuple[Steps, type[BaseModel]]:
    """Return the steps to the error as the document spells them, and the model whose field is concerned."""
    steps: list[str | int] = []
    owner, value = model, raw
    loc = details["loc"]
    for position, step in enumerate(loc):
        if step == "[key]":
            break
        if isinstance(value, dict):
            key = _key(value, step)
        elif isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value):
            key = step
        else:
            break
        steps.append(key)
        if position + 1 < len(loc) and isinstance(step, str):
            owner = _PARTS.get(step, owner)
        value = value.get(key) if isinstance(value, dict) else value[key]
    return tuple(steps), owner


def _fields(owner: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in owner.model_fields.items()]


def _sentence(details: ErrorDetails, steps: Steps, owner: type[BaseModel], problems: Problems) -> tuple[str, str]:
    """Return the code and the sentence for one of pydantic's errors."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    name = f"`{steps[-1]}`" if steps and isinstance(steps[-1], str) else "The value"
    if kind == "missing":
        return "MISSING_FIELD", f"{name} is missing; {_NAMES.get(owner, 'this')} must have it."
    if kind == "extra_forbidden":
        word = str(steps[-1]) if steps else ""
        fields = _fields(owner)
        if word.endswith("Ms") and word[:-2] in fields:
            return "BAD_DURATION", f"{name} is a whole number of milliseconds, 0 or more, not {shown(value)}."
        what = _NAMES.get(owner, f"`{steps[-2]}`" if len(steps) > 1 else "this")
        meant = _ELSEWHERE.get(owner, {}).get(word)
        hint = f"; did you mean {meant}?" if meant else problems.hint(word, fields)
        return "UNKNOWN_FIELD", f"{name} is no field of {what}{hint or '.'}"
    if kind == "value_error":
        text = details["msg"].removeprefix("Value error, ")
        return "BAD_DURATION" if "duration" in text else "BAD_VALUE", f"{name}: {text}, not {shown(value)}."
    if kind in _WANTED:
        wanted = _WANTED[kind]
        quote = " Put it in quotes." if wanted == "a text" and isinstance(value, (int, float)) else ""
        not_this = shown(value) if wanted in ("an integer", "a number") else kind_of(value)
        return "WRONG_TYPE", f"{name} is {wanted}, not {not_this}.{quote}"
    if kind in ("enum", "literal_error"):
        expected = str(context.get("expected", ""))
        words = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        near = problems.hint(value, words) if isinstance(value, str) else ""
        return "BAD_VALUE", f"{name} is one of {', '.join(words)}, not {shown(value)}{near or '.'}"
    for limit, relation in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if limit in context:
            return "BAD_VALUE", f"{name} is {relation} {context[limit]}, not {shown(value)}."
    if kind == "string_too_short":
        return "BAD_VALUE", f"{name} must not be empty."
    if kind == "string_too_long":
        return "BAD_VALUE", f"{name} has at most {context.get('max_length')} characters."
    if kind.startswith("uuid"):
        return "BAD_VALUE", f"{name} is a UUID, not {shown(value)}; without one it is derived from the name."
    return "BAD_VALUE", f"{name}: {details['msg']}."
