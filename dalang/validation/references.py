"""Expressions, templates and joins: that they compile, and that what they read can be there when they are evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dalang.cel_source import ExpressionError, analyse
from dalang.expressions import Expression
from dalang.expressions import compile as compile_expression
from dalang.joins import parse_join
from dalang.plan import ERROR_PORT, is_identifier
from dalang.program import JOIN_WORDS
from dalang.templates import compile_template
from dalang.validation.human_tasks import TASK_TEXTS
from dalang.validation.report import Problems, Steps
from dalang.validation.structure import Draft, EdgeAt, NodeAt

OF_UNDO = ("inputs", "nodes", "run", "outputs", "error", "undoes")
"""What the inputs of a compensation can read."""
NODE_PARTS = ("outputs", "status", "error")
"""What an expression can read of a node."""
_INPUT_VARIABLES = ("inputs", "nodes", "run")
_BATCH = 8192
"""How many nodes are followed through the graph at once: one bit each of an integer per node."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an expression stands, and what it may read there."""

    steps: Steps
    what: str
    variables: tuple[str, ...]
    reader: int | None
    """The node whose ancestors may be read; None if any node may."""
    also: bool = False
    """Whether the reader itself may be read."""
    node: str | None = None
    edge: str | None = None


@dataclass(frozen=True, slots=True)
class _Query:
    place: _Place
    read: int


def check_references(draft: Draft, problems: Problems) -> None:
    """Check every expression and join of the plan."""
    checker = _Checker(draft, problems)
    for number, node in enumerate(draft.nodes):
        if node.model is not None:
            if node.model.inputs:
                place = _Place((*node.steps, "inputs"), "inputs", _INPUT_VARIABLES, number, node=node.id)
                checker.template(node.model.inputs, place)
            if node.model.compensation is not None and node.model.compensation.inputs:
                place = _Place(
                    (*node.steps, "compensation", "inputs"), "a compensation", OF_UNDO, number, True, node.id
                )
                checker.template(node.model.compensation.inputs, place)
            if node.model.map is not None:
                items = _Place((*node.steps, "map", "items"), "items", _INPUT_VARIABLES, number, node=node.id)
                checker.template(node.model.map.items, items)
            if node.model.task is not None:
                for field, name in TASK_TEXTS.items():
                    steps = (*node.steps, "task", name)
                    place = _Place(steps, "the task", ("inputs", "nodes", "run"), number, node=node.id)
                    checker.template(getattr(node.model.task, field), place)
            keys = {name: {"key": need.key} for name, need in node.model.requirements.pools.items()}
            if keys:
                steps = (*node.steps, "requirements", "pools")
                checker.template(keys, _Place(steps, "a key", _INPUT_VARIABLES, number, node=node.id))
            _check_join(draft, node, problems)
    for edge in draft.edges:
        if edge.model is not None and edge.model.condition is not None:
            checker.condition(edge, edge.model.condition)
    if draft.head.outputs:
        checker.template(draft.head.outputs, _Place(("outputs",), "outputs", ("inputs", "nodes", "run"), None))
    checker.check_upstream()


def _texts(value: Any, steps: Steps) -> Iterator[tuple[Steps, str]]:
    """Yield the texts in a JSON value that hold an expression, in order."""
    stack: list[tuple[Any, Steps]] = [(value, steps)]
    while stack:
        item, at = stack.pop()
        if isinstance(item, str):
            if "${" in item:
                yield at, item
        elif isinstance(item, Mapping):
            stack.extend((child, (*at, key)) for key, child in reversed(list(item.items())))
        elif isinstance(item, (list, tuple)):
            stack.extend((item[index], (*at, index)) for index in range(len(item) - 1, -1, -1))


class _Checker:
    def __init__(self, draft: Draft, problems: Problems) -> None:
        self._draft = draft
        self._problems = problems
        self._queries: list[_Query] = []
        self._input_names, self._inputs_closed = _declared_inputs(draft.head.inputs)
        self._inputs_read: dict[str, tuple[str, ...]] = {}
        self._reported: set[tuple[Steps, str]] = set()

    def template(self, value: Any, place: _Place) -> None:
        for steps, text in _texts(value, place.steps):
            at = _Place(steps, place.what, place.variables, place.reader, place.also, place.node, place.edge)
            try:
                template = compile_template(text)
            except ExpressionError as error:
                self._broken(at, text, error)
                continue
            for _, expression in template.expressions if template is not None else ():
                self._expression(expression, at)

    def condition(self, edge: EdgeAt, source: str) -> None:
        assert edge.model is not None
        own = "error" if edge.model.source_port == ERROR_PORT else "outputs"
        place = _Place(
            steps=(*edge.steps, "condition"),
            what="the condition",
            variables=(own, "inputs", "nodes", "run"),
            reader=edge.source,
            also=True,
            edge=edge.id,
        )
        try:
            expression = compile_expression(source)
        except ExpressionError as error:
            self._broken(place, source, error)
            return
        if not expression.could_be_boolean:
            message = f"The condition `{_short(source)}` is never true or false; compare it with something."
            self._problems.error("NOT_BOOLEAN", place.steps, message, edge=edge.id)
        self._expression(expression, place)

    def _broken(self, place: _Place, source: str, error: ExpressionError) -> None:
        hint = ""
        if place.edge is not None and "${" in source:
            hint = " A condition is CEL as it stands, without ${ }."
        else:
            names = (name for name in re.findall(r"\bnodes\.([\w.-]+)", source) if "-" in name)
            quoted = next((name for name in names for name in _prefixes(name) if name in self._draft.index), None)
            if quoted is not None:
                hint = f" The id of this node is no identifier: write nodes['{quoted}']."
        message = f"`{_short(source)}` does not compile ({error.code}): {_tidy(error, bool(hint))}{hint}"
        self._problems.error("BAD_EXPRESSION", place.steps, message, place.node, place.edge)

    def _expression(self, expression: Expression, place: _Place) -> None:
        for variable in expression.variables:
            if variable not in place.variables:
                self._wrong_variable(variable, place)
        for path in expression.node_paths:
            self._node_path(path, place)
        if "inputs" in expression.variables and self._input_names is not None:
            for name in self._read_inputs(expression.source):
                if name not in self._input_names:
                    self._unknown_input(name, place)

    def _wrong_variable(self, variable: str, place: _Place) -> None:
        known = ", ".join(place.variables)
        why = ""
        if variable == "error":
            why = " Only the condition of an edge from the port `error` reads it; elsewhere it is nodes.<id>.error."
        elif variable == "outputs":
            why = " Only conditions of edges from other ports than `error` read it; elsewhere it is nodes.<id>.outputs."
        elif variable == "undoes":
            why = " Only the inputs of a compensation read it: of undoes its inputs, status and key."
        message = f"`{variable}` has no value in {place.what}; there are {known}.{why}"
        self._problems.error("WRONG_VARIABLE", place.steps, message, place.node, place.edge)

    def _node_path(self, path: tuple[str, ...], place: _Place) -> None:
        name = path[0]
        number = self._draft.index.get(name)
        if number is None:
            if (place.steps, name) not in self._reported:
                self._reported.add((place.steps, name))
                message = f"There is no node `{name}`{self._problems.hint(name, self._draft.index) or '.'}"
                self._problems.error("UNKNOWN_NODE", place.steps, message, place.node, place.edge)
            return
        if place.reader is not None:
            self._queries.append(_Query(place, number))
        if len(path) > 1 and path[1] not in NODE_PARTS:
            reached = f"nodes.{name}" if is_identifier(name) else f"nodes['{name}']"
            message = f"`{reached}` has outputs, status and error, no `{path[1]}`; write {reached}.outputs.<key>."
            self._problems.error("UNKNOWN_NODE_PART", place.steps, message, place.node, place.edge)
        elif len(path) > 2 and path[1] == "outputs":
            self._check_output(number, path[2], place)

    def _check_output(self, number: int, key: str, place: _Place) -> None:
        model = self._draft.nodes[number].model
        declared = [port.name for port in model.descriptor.outputs] if model and model.descriptor else []
        if declared and key not in declared:
            hint = self._problems.hint(key, declared) or "."
            message = f"The descriptor of `{self._draft.nodes[number].id}` declares no output `{key}`{hint}"
            self._problems.warning("UNKNOWN_OUTPUT", place.steps, message, place.node, place.edge)

    def _read_inputs(self, source: str) -> tuple[str, ...]:
        names = self._inputs_read.get(source)
        if names is None:
            paths = analyse(source).paths
            names = tuple(dict.fromkeys(path[1] for path in paths if path[0] == "inputs" and len(path) > 1))
            self._inputs_read[source] = names
        return names

    def _unknown_input(self, name: str, place: _Place) -> None:
        assert self._input_names is not None
        hint = self._problems.hint(name, self._input_names)
        if self._inputs_closed:
            message = f"The run has no input `{name}`: the schema in `inputs` allows no other properties{hint or '.'}"
            self._problems.error("UNKNOWN_INPUT", place.steps, message, place.node, place.edge)
        else:
            message = f"The schema in `inputs` describes no property `{name}`{hint or '; describe it there.'}"
            self._problems.warning("UNKNOWN_INPUT", place.steps, message, place.node, place.edge)

    def check_upstream(self) -> None:
        """Report every read of a node that is not upstream of its reader."""
        draft, open_queries = self._draft, []
        known = set(draft.order)
        for query in self._queries:
            reader = query.place.reader
            assert reader is not None
            if query.read == reader:
                if not query.place.also:
                    self._not_upstream(query)
                continue
            node = draft.nodes[reader]
            # A finally node may read every main node; what a dangling edge would bring is not known.
            if node.dangling or (node.is_finally and not draft.nodes[query.read].is_finally):
                continue
            if reader in known and not any(edge.source == query.read for edge in node.incoming[:8]):
                open_queries.append(query)
        if not draft.is_complete or not open_queries:
            return
        wanted = list(dict.fromkeys(query.read for query in open_queries))
        by_read: dict[int, list[_Query]] = {}
        for query in open_queries:
            by_read.setdefault(query.read, []).append(query)
        targets = [list(dict.fromkeys(edge.target for edge in node.outgoing)) for node in draft.nodes]
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            reached = _reachable(draft.order, targets, batch)
            for bit, read in enumerate(batch):
                for query in by_read[read]:
                    assert query.place.reader is not None
                    if not reached[query.place.reader] >> bit & 1:
                        self._not_upstream(query)

    def _not_upstream(self, query: _Query) -> None:
        place, name = query.place, self._draft.nodes[query.read].id
        if (place.steps, name) in self._reported:
            return
        self._reported.add((place.steps, name))
        assert place.reader is not None
        reader = self._draft.nodes[place.reader].id
        if query.read == place.reader:
            message = f"`{name}` reads itself in its inputs; it has no outputs before it has run."
        else:
            message = (
                f"No path of edges leads from `{name}` to `{reader}`, so it need not have ended when {place.what}"
                " is read; add an edge, or read another node."
            )
        self._problems.error("REFERENCE_NOT_UPSTREAM", place.steps, message, place.node, place.edge)


def _reachable(order: list[int], targets: list[list[int]], batch: list[int]) -> list[int]:
    """Return for every node, as bits, which nodes of ``batch`` it is or is reached from."""
    reached = [0] * len(targets)
    for bit, number in enumerate(batch):
        reached[number] = 1 << bit
    for number in order:
        bits = reached[number]
        if bits:
            for target in targets[number]:
                reached[target] |= bits
    return reached


def _check_join(draft: Draft, node: NodeAt, problems: Problems) -> None:
    assert node.model is not None
    join, steps = node.model.join, (*node.steps, "join")
    if join in JOIN_WORDS:
        return
    words = ", ".join(JOIN_WORDS)
    try:
        expression = parse_join(join)
    except ExpressionError as error:
        hint = " An id that is no identifier is written edges['a->b']." if "->" in join or "-" in join else ""
        message = f"The join `{_short(join)}` cannot be read ({error.code}): {error.message}{hint}"
        problems.error("BAD_JOIN", steps, message, node.id)
        return
    own = [edge.id for edge in node.incoming if edge.id is not None]
    for name in expression.edges:
        if name in own or name in node.dangling:
            continue
        if expression.edges == (join.strip(),) and is_identifier(name) and name not in draft.edge_ids:
            hint = problems.hint(name, JOIN_WORDS)
            message = f"`{name}` is no join: joins are {words}, or a boolean over ids of incoming edges{hint}"
            problems.error("UNKNOWN_JOIN", steps, message, node.id)
        elif draft.is_complete:
            there = ", ".join(own[:5]) + (", ..." if len(own) > 5 else "") if own else "none"
            message = f"No edge `{name}` leads into `{node.id}`; its incoming edges are: {there}."
            problems.error("JOIN_UNKNOWN_EDGE", steps, message, node.id)


def _declared_inputs(schema: Mapping[str, Any] | None) -> tuple[tuple[str, ...] | None, bool]:
    """Return the names of the run's inputs, None if the schema names none, and whether there can be no others."""
    if schema is None:
        return None, False
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or "patternProperties" in schema or "$ref" in schema:
        return None, False
    if any(word in schema for word in ("allOf", "anyOf", "oneOf", "if", "dependentSchemas")):
        return None, False
    return tuple(properties), schema.get("additionalProperties") is False


def _prefixes(name: str) -> Iterator[str]:
    """Yield ``a-b.outputs.x``, ``a-b.outputs``, ``a-b``: an id may hold dots."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _tidy(error: ExpressionError, hinted: bool) -> str:
    """Return the engine's sentence without what means nothing here, and its general hint only for want of a better."""
    text = error.message.replace(" (in container '')", "")
    return (text.partition(" (an id with")[0] if hinted else text).rstrip(".") + "."


def _short(source: str) -> str:
    return source if len(source) <= 120 else source[:119] + "…"
