"""Nodes that hold other nodes: their fields, and what runs in them, which is validated as a plan of its own.

A body is one more document: it is checked with every check there is, and its problems are told with pointers into the
document that holds it. What it sees are its own inputs only, so nothing in it can refer to the outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from dalang.cel_source import ExpressionError
from dalang.expressions import compile as compile_expression
from dalang.nesting import BODY_ID, CONTAINER_TYPES, MAX_DEPTH, body_of, is_node, is_reference, with_body
from dalang.plan import Node, Plan
from dalang.plan_containers import MAX_ELEMENTS, LoopSpec
from dalang.validation.report import Problems, Steps, kind_of, shown
from dalang.validation.shape import Item

Check = Callable[[Mapping[str, Any], Problems, int], Plan | None]
"""Validates a document at a depth and returns its plan, or None if something is against it."""

RESERVED: Mapping[str, tuple[str, ...]] = {
    "plan": (),
    "map": ("items", "item", "index"),
    "loop": ("iteration", "previous"),
}
"""Inputs that a container itself gives to its body."""
_WITHOUT_EFFECT: Mapping[str, tuple[str, str]] = {
    "handler": ("handler", "nothing of the user's own runs for the node itself."),
    "retry_policy": ("retryPolicy", "the nodes in it have retry policies."),
    "timeouts": ("timeouts", "an inline plan has a `timeout`, and the nodes in it have timeouts."),
}
_REFERENCE = ("planId", "name", "version")


def check_containers(items: list[Item[Node]], depth: int, problems: Problems, check: Check) -> None:
    """Check every container among ``items``, in a plan that is ``depth`` deep; good bodies take their full form."""
    for item in items:
        if item.model is not None:
            _Container(item, item.model, depth, problems, check).check()


class _Container:
    def __init__(self, item: Item[Node], model: Node, depth: int, problems: Problems, check: Check) -> None:
        self._item, self._model, self._depth = item, model, depth
        self._problems, self._check_document = problems, check
        self._kind = model.type
        self._steps = item.steps

    def check(self) -> None:
        for name in CONTAINER_TYPES:
            if name != self._kind and getattr(self._model, name) is not None:
                message = f"`{name}` has no meaning for a node of type {self._kind}; it is for the type `{name}`."
                self._error("WITHOUT_EFFECT", (name,), message)
        if self._kind not in CONTAINER_TYPES:
            return
        for field, (name, why) in _WITHOUT_EFFECT.items():
            if field in self._model.model_fields_set and getattr(self._model, field):
                key = name if name in self._item.raw else field
                self._error("WITHOUT_EFFECT", (key,), f"`{name}` has no effect for a {self._kind} node: {why}")
        for name in RESERVED[self._kind]:
            if name in self._model.inputs:
                message = (
                    f"The input `{name}` of what is in a {self._kind} node is given by the node; call it otherwise."
                )
                self._error("BAD_INPUT", ("inputs", name), message)
        body = body_of(self._model)
        if body is None:
            self._error("MISSING_FIELD", (self._kind,), f"A {self._kind} node says in `{self._kind}` what runs in it.")
            return
        if self._kind == "map":
            self._items()
        elif self._kind == "loop":
            assert self._model.loop is not None
            self._until(self._model.loop)
        self._body(body, ("plan",) if self._kind == "plan" else (self._kind, "body"))

    def _error(self, code: str, steps: Steps, message: str) -> None:
        self._problems.error(code, (*self._steps, *steps), message, self._model.node_id)

    def _items(self) -> None:
        assert self._model.map is not None
        items = self._model.map.items
        if isinstance(items, str) and "${" not in items:
            message = "`items` is a list, or an expression such as ${inputs.files}, whose value is one."
            self._error("BAD_INPUT", ("map", "items"), message)
        elif isinstance(items, list) and len(items) > MAX_ELEMENTS:
            message = f"`items` has {len(items):,} elements; at most {MAX_ELEMENTS:,} are taken."
            self._error("BAD_INPUT", ("map", "items"), message)

    def _until(self, loop: LoopSpec) -> None:
        place = ("loop", "until")
        try:
            until = compile_expression(loop.until)
        except ExpressionError as error:
            hint = " It is CEL as it stands, without ${ }." if "${" in loop.until else ""
            message = f"`until` does not compile ({error.code}): {error.message}{hint}"
            self._error("BAD_EXPRESSION", place, message)
            return
        for variable in until.variables:
            if variable not in ("outputs", "iteration", "inputs"):
                message = f"`{variable}` has no value in `until`; there are outputs, iteration and inputs."
                self._error("WRONG_VARIABLE", place, message)
        if not until.could_be_boolean:
            self._error("NOT_BOOLEAN", place, "`until` is never true or false; compare it with something.")

    # -- the body --------------------------------------------------------------------------------------------------

    def _body(self, body: Mapping[str, Any], place: Steps) -> None:
        base = (*self._steps, *place)
        if self._depth >= MAX_DEPTH:
            message = f"Plans are nested more than {MAX_DEPTH} deep here."
            self._problems.error("NESTED_TOO_DEEP", base, message, self._model.node_id)
        elif is_reference(body):
            self._reference(body, place)
        elif is_node(body) and self._kind == "plan":
            message = "What runs in a plan node is a plan, with `nodes`, or the planId or name of a stored one."
            self._error("BAD_VALUE", place, message)
        elif is_node(body):
            document: Mapping[str, Any] = {"name": "body", "nodes": [{"nodeId": BODY_ID, **body}]}
            below = self._problems.below(lambda steps: (*base, *steps[2:]) if steps[:2] == ("nodes", 0) else base)
            plan = self._check_document(document, below, self._depth + 1)
            if plan is not None:
                node = plan.nodes[0].model_dump(mode="json", by_alias=True, exclude_defaults=True)
                self._item.model = with_body(self._model, node)
        else:
            document = body if "name" in body else {"name": self._model.node_id, **body}
            below = self._problems.below(lambda steps: (*base, *steps))
            plan = self._check_document(document, below, self._depth + 1)
            if plan is not None:
                self._item.model = with_body(self._model, plan.wire())

    def _reference(self, body: Mapping[str, Any], place: Steps) -> None:
        for name in body:
            if name not in _REFERENCE:
                hint = self._problems.hint(name, (*_REFERENCE, "nodes")) or "."
                message = f"`{name}` is no field of a stored plan's name: there are planId or name, and version{hint}"
                self._error("UNKNOWN_FIELD", (*place, name), message)
        if ("planId" in body) == ("name" in body):
            message = "Give the `nodes` of an inline plan, or either the planId or the name of a stored one."
            self._error("MISSING_FIELD", place, message)
        for name in _REFERENCE:
            value = body.get(name)
            if value is None:
                continue
            if not isinstance(value, str) or not value:
                self._error("WRONG_TYPE", (*place, name), f"`{name}` is a text, not {kind_of(value)}.")
            elif name == "planId" and not _is_uuid(value):
                self._error("BAD_VALUE", (*place, name), f"`planId` is a UUID, not {shown(value)}.")


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
