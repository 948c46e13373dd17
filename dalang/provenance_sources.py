"""Where the values of one node's inputs come from: what the plan writes, what edges carry, what people changed.

A *source* is a JSON object: ``pointer`` (JSON Pointer into the inputs; it covers everything below it), ``from`` (one of
:data:`KINDS`) and what belongs to the kind. A *read* is one thing that an expression looks at. Pure functions over a
program and what is known of the run at that moment (:class:`Known`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from dalang.canonical import body_reference, compact_json, pointer
from dalang.dataflow import edge_values
from dalang.expressions import Expression
from dalang.plan import ERROR_PORT
from dalang.program import Program
from dalang.templates import Template, compile_template

KINDS = {
    "literal": "the plan writes it",
    "expression": "the plan computes it; `reads` says from what",
    "secret": "a secret, by `secrets`, its names; the value is known to the worker only",
    "edge": "an edge carried it, from `execution`",
    "default": "the default of the node's port, or of the schema of the plan in the node",
    "operator": "a person changed it, when the node or the run was started again",
    "undone": "of an undo: inputs or outputs of the `execution` that is undone",
    "before": "of a redrive: the inputs that were recorded in the run before",
    "unknown": "it cannot be said any more: values were erased, or the plan is gone",
}
"""What ``from`` says, with its meaning."""

Source = dict[str, Any]
Json = Mapping[str, Any]
_UNKNOWN = object()
ANY_KEY = ""
"""In place of a key: whatever keys there are. As the name of an input it would be a pointer all the same ("/")."""


class Known(Protocol):
    """What is known of the run when the inputs are made."""

    program: Program
    inputs: Any
    outputs: dict[int, Json]
    errors: dict[int, Json]

    def execution_of(self, node: int) -> str | None:
        """Return which execution of a node its outputs are from."""


def is_reference(value: Any) -> bool:
    """Tell whether a large value stands here by its digest only."""
    return isinstance(value, Mapping) and "$ref" in value


def digest_of(value: Any) -> str | None:
    """Return the digest of a value as references to large ones have it; None: there is none, or it is not at hand."""
    if value is None or (is_reference(value) and "part" in value):
        return None
    if is_reference(value):
        return str(value["$ref"])
    return str(body_reference(compact_json(value))["$ref"])


def written(
    known: Known,
    value: Any,
    secrets: Mapping[str, Sequence[str]],
    node: int | None = None,
    template: Template | None = None,
    undoes: int | None = None,
) -> list[Source]:
    """Return the sources of what a plan writes: one for each expression and secret, and for each literal.

    ``template`` is that of ``value``, where it was compiled before; ``undoes`` the node whose undo it is for.
    """
    template = template or compile_template(value)
    expressions: dict[str, list[Expression]] = {}
    for place, expression in template.expressions if template is not None else ():
        expressions.setdefault(place, []).append(expression)
    ends = {*expressions, *secrets}
    above = {place[:at] for place in ends for at, letter in enumerate(place) if letter == "/"}
    found: list[Source] = []
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        place, one = waiting.pop()
        if place in ends:
            found.append(_computed(known, place, expressions.get(place, ()), secrets.get(place, ()), node, undoes))
        elif isinstance(one, Mapping) and (place in above or not place):
            waiting += [(place + pointer(str(key)), item) for key, item in reversed(list(one.items()))]
        elif isinstance(one, list | tuple) and place in above:
            waiting += [(f"{place}/{at}", item) for at, item in reversed(list(enumerate(one)))]
        else:
            found.append({"pointer": place, "from": "literal"})
    return found


def _computed(
    known: Known,
    place: str,
    expressions: Sequence[Expression],
    secrets: Sequence[str],
    node: int | None,
    undoes: int | None,
) -> Source:
    source: Source = {"pointer": place, "from": "expression" if expressions else "secret"}
    if expressions:
        source["expressions"] = [one.source for one in expressions]
        source["reads"] = reads(known, expressions, node, undoes)
    if secrets:
        source["secrets"] = list(secrets)
    return source


def reads(
    known: Known, expressions: Iterable[Expression], node: int | None = None, source: int | None = None
) -> list[dict[str, Any]]:
    """Return what expressions read; in those of an edge, ``outputs`` and ``error`` are those of its ``source``."""
    found: dict[str, dict[str, Any]] = {}
    for expression in expressions:
        for path in expression.paths:
            one = _read(known, path, node, source)
            found[repr(one)] = one
    return list(found.values())


def _read(known: Known, path: tuple[str, ...], node: int | None, source: int | None) -> dict[str, Any]:
    variable, keys = path[0], path[1:]
    if variable == "nodes" and keys:
        number = known.program.index.get(keys[0])
        part = keys[1] if len(keys) > 1 else "node"
        return _of_node(known, number, keys[0], part, keys[2:])
    if variable in ("outputs", "error") and source is not None:
        return _of_node(known, source, known.program.ids[source], variable, keys)
    if variable == "inputs" and known.program.repeat is not None and node is not None:
        if keys[:1] == ("index",):
            return {"of": "index"}
        if keys[:1] == ("item",):
            keys = ("items", str(node), *keys[1:])
    return {"of": variable, "path": pointer(*keys)}


def _of_node(known: Known, number: int | None, node_id: str, part: str, keys: tuple[str, ...]) -> dict[str, Any]:
    read: dict[str, Any] = {"of": part, "nodeId": node_id}
    execution = None if number is None else known.execution_of(number)
    if execution is not None:
        read["execution"] = execution
    return {**read, "path": pointer(*keys)} if keys else read


class Candidates:
    """By key of the inputs: what could have set it, in the order in which that was put in. The last one won.

    Each has the value that it would have given, if that is known: a redrive may have kept older inputs.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, list[tuple[list[Source], Any]]] = {}

    def add(self, key: str, sources: list[Source], value: Any = _UNKNOWN) -> None:
        """Put in what set the key ``key``; what it would have given is ``value``."""
        self._by_key.setdefault(key, []).append((sources, value))

    def add_to_first(self, key: str, source: Source) -> None:
        """Put in one more source of what the plan itself writes under ``key``."""
        if key in self._by_key:
            self._by_key[key][0][0].append(source)
        else:
            self.add(key, [source])

    def chosen(self, inputs: Any, otherwise: str) -> list[Source]:
        """Return the sources of ``inputs``, whole as they were recorded; None: nobody knows their keys."""
        if not isinstance(inputs, Mapping) or is_reference(inputs):
            return [source for candidates in self._by_key.values() for source in candidates[-1][0]]
        found: list[Source] = []
        for key, value in inputs.items():
            candidates = [*self._by_key.get(ANY_KEY, ()), *self._by_key.get(key, ())]
            fitting = (sources for sources, given in reversed(candidates) if _fits(given, value))
            found += _at(key, next(fitting, [{"pointer": pointer(key), "from": otherwise}]))
        return found

    def has(self, key: str) -> bool:
        """Tell whether anything could have set the key."""
        return key in self._by_key or ANY_KEY in self._by_key


def _at(key: str, sources: list[Source]) -> list[Source]:
    """Return sources of all keys as those of one."""
    return [source if source["pointer"] else {**source, "pointer": pointer(key)} for source in sources]


def _fits(given: Any, value: Any) -> bool:
    return given is _UNKNOWN or bool(given == value)


def input_candidates(known: Known, node: int, live: Iterable[tuple[int, bool]]) -> Candidates:
    """Return what could have set the inputs of ``node``; ``live`` are its live edges, and whether that is certain."""
    program = known.program
    own = program.nodes[node]
    found = Candidates()
    for source in written(known, own.get("inputs"), own.get("secrets", {}), node, program.inputs_template(node)):
        _add_written(found, source)
    for edge, certain in live:
        _add_edge(known, found, edge, certain, whole=program.container(node) is None)
    for name, _, default in own.get("ports") or ():
        if default is not None and not found.has(name):
            found.add(name, [{"pointer": pointer(name), "from": "default"}])
    container = program.container(node)
    if container is not None and "items" in container:
        items = written(known, container["items"], {}, node)
        found.add("items", [{**one, "pointer": "/items" + one["pointer"]} for one in items])
    for name in (container or {}).get("schema", {}).get("properties", {}):
        if not found.has(name):
            found.add(name, [{"pointer": pointer(name), "from": "default"}])
    return found


def _add_written(found: Candidates, source: Source) -> None:
    """Put in a source of the plan's own inputs: beside those of the same key, or, of the root, for all keys."""
    place = source["pointer"]
    if not place:
        if source["from"] != "literal":
            found.add(ANY_KEY, [source])
        return
    key = place[1:].partition("/")[0].replace("~1", "/").replace("~0", "~")
    found.add_to_first(key, source)


def _add_edge(known: Known, found: Candidates, edge: int, certain: bool, whole: bool) -> None:
    program = known.program
    node = program.sources[edge]
    port = program.ports[edge]
    base: Source = {"from": "edge", "edgeId": program.edge_ids[edge], "nodeId": program.ids[node], "port": port}
    execution = known.execution_of(node)
    if execution is not None:
        base["execution"] = execution
    condition = program.condition(edge)
    if condition is not None:
        base |= {"condition": condition.source, "reads": reads(known, [condition], source=node)}
    if not certain:
        base["certain"] = False
    error = known.errors.get(node, {}) if port == ERROR_PORT else None
    outputs = known.outputs.get(node, {})
    mapping, target_port = program.mappings[edge], program.target_ports[edge]
    if is_reference(outputs if error is None else error):
        keys = {target: key for key, target in mapping.items()} if mapping is not None else {}
        for key in keys or ([target_port] if target_port else []):
            found.add(key, [{"pointer": pointer(key), **base, **({"key": keys[key]} if keys else {})}])
        if not keys and not target_port:
            found.add(ANY_KEY, [{"pointer": "", **base}])
        return
    names = {target: key for key, target in (mapping or {}).items()}
    for key, value in edge_values(program, edge, outputs, error).items():
        taken = names.get(key) if mapping is not None else None if target_port is not None else key
        more = {} if taken is None or (error is not None and mapping is None) else {"key": taken}
        found.add(key, [{"pointer": pointer(key), **base, **more}], value if whole else _UNKNOWN)


def undo_sources(known: Known, node: int, execution: str | None, inputs: Any) -> list[Source]:
    """Return the sources of an undo's ``inputs``; ``execution`` is what it undoes."""
    compensation = known.program.compensations.get(node, {})
    own = compensation.get("inputs")
    found = Candidates()
    if own is not None:
        for source in written(known, own, compensation.get("secrets", {}), node, undoes=node):
            _add_written(found, source)
        return found.chosen(inputs, "operator")
    outputs = known.outputs.get(node, {})
    of = {} if execution is None else {"execution": execution}
    for key in inputs if isinstance(inputs, Mapping) and not is_reference(inputs) else ():
        part = "outputs" if key in outputs else "inputs"
        found.add(key, [{"pointer": pointer(key), "from": "undone", "part": part, **of}])
    return found.chosen(inputs, "undone")
