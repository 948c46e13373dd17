"""Node types: that they exist, and that the inputs of the built-in ones can be right.

An input that holds ``${`` is only known at run time, and one that an edge could bring may be left out; all else is
checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dalang.durations import MAX_DURATION_MS, parse_duration
from dalang.implementations import carried_out_as
from dalang.llm_inputs import FIELDS
from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import ERROR_PORT, Node
from dalang.program import WAITING_TYPES
from dalang.validation import later
from dalang.validation.a2a_inputs import A2A_INPUTS
from dalang.validation.hub_inputs import HUB_INPUTS
from dalang.validation.llm import check_llm_inputs
from dalang.validation.mcp_inputs import MCP_INPUTS
from dalang.validation.report import Problems, kind_of, shown
from dalang.validation.structure import Draft, NodeAt
from dalang.validation.waits import EVENT_INPUTS, TIMER_INPUTS, check_callback, check_end
from dalang.wait_inputs import MAX_WAIT_MS

HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HTTP_PARSE = ("auto", "json", "text", "none", "artifact")

_STATUS = re.compile(r"[1-5](?:\d\d|xx)")


def check_node_types(draft: Draft, registered: frozenset[str] | None, problems: Problems) -> None:
    """Check each node's type, and what the built-in types need."""
    types = None if registered is None else [*BUILT_IN_TYPES, *sorted(registered.difference(BUILT_IN_TYPES))]
    known = None if types is None else frozenset(types)
    for node in draft.nodes:
        if node.model is None:
            continue
        kind = node.model.type
        if node.model.interruptible and (kind in WAITING_TYPES or node.model.callback is not None):
            what = f"A node of type {kind}" if kind in WAITING_TYPES else "A node that waits for a callback"
            message = f"{what} cannot be stopped to start again; a pause leaves it as it is."
            problems.error("NOT_INTERRUPTIBLE", (*node.steps, "interruptible"), message, node.id)
        check_callback(node, node.model, problems)
        if kind in BUILT_IN_TYPES:
            _Inputs(draft, node, node.model, problems, registered).check()
            if kind == "python":
                _check_python(node, node.model, registered, problems)
        elif carried_out_as(node.model) != kind or (known is not None and kind in known):
            continue
        elif not later.refuse_type(kind, (*node.steps, "type"), problems, node.id) and types is not None:
            hint = problems.hint(kind, types) or f"; there are {', '.join(types[:20])}."
            if kind == "callback":
                hint = "; give the node that asks for the work the field `callback`."
            message = f"There is no node type `{kind}`{hint} Functions become types with @node."
            problems.error("UNKNOWN_NODE_TYPE", (*node.steps, "type"), message, node.id)


def _check_python(node: NodeAt, model: Node, registered: frozenset[str] | None, problems: Problems) -> None:
    implementation = model.descriptor.implementation if model.descriptor else None
    name = model.handler or (implementation.coordinate if implementation else None)
    steps = (*node.steps, "handler")
    if not name:
        message = "A python node names its function: `handler: <name given to @node>`."
        problems.error("MISSING_FIELD", steps, message, node.id)
    elif registered is not None and name not in registered:
        names = sorted(registered.difference(BUILT_IN_TYPES))
        hint = problems.hint(name, names) or f"; there are {', '.join(names[:20]) or 'none'}."
        if not model.handler:
            steps = (*node.steps, "descriptor", "implementation", "coordinate")
        problems.error("UNKNOWN_HANDLER", steps, f"No function is registered as `{name}`{hint}", node.id)


def could_be_brought(draft: Draft, node: NodeAt, key: str) -> bool:
    """Tell whether an edge into ``node`` could bring the input ``key``."""
    if node.dangling or not draft.is_complete:
        return True
    for edge in node.incoming:
        model = edge.model
        if model is None:
            return True
        if model.mapping is not None:
            if key in model.mapping.values():
                return True
        elif model.target_port is not None:
            if model.target_port == key:
                return True
        elif model.source_port != ERROR_PORT or key == "error":
            return True
    return False


class _Inputs:
    """The inputs of one node of a built-in type."""

    def __init__(
        self, draft: Draft, node: NodeAt, model: Node, problems: Problems, registered: frozenset[str] | None
    ) -> None:
        self._draft = draft
        self._registered = registered
        self._node = node
        self._model = model
        self._problems = problems
        ports = model.descriptor.inputs if model.descriptor else ()
        self._defaults = {port.name: port.default_value for port in ports if port.default_value is not None}

    def check(self) -> None:
        if self._model.type == "http":
            self._http()
        elif self._model.type == "mcp":
            self._mcp()
        elif self._model.type == "llm":
            self._llm()
        elif self._model.type == "a2a":
            self._a2a()
        elif self._model.type == "runtime-hub":
            self._runtime_hub()
        elif self._model.type == "sleep":
            self._sleep()
        elif self._model.type == "timer":
            self._timer()
        elif self._model.type == "event":
            self._need("name", "An event node needs the input `name`: the name of the event it waits for.")
            for name, check in EVENT_INPUTS.items():
                self._literal(name, check)
            self._ignored(tuple(EVENT_INPUTS))
            check_end(self._node, "timeout" in self._model.inputs, self._problems)

    def _http(self) -> None:
        self._need("url", "An http node needs the input `url`.")
        for name, check in _HTTP_INPUTS.items():
            self._literal(name, check)
        self._ignored(tuple(_HTTP_INPUTS))

    def _mcp(self) -> None:
        self._need("server", "An mcp node needs the input `server`: the name of an MCP server, or {url, headers}.")
        self._need("tool", "An mcp node needs the input `tool`: the name of the tool to call.")
        for name, check in MCP_INPUTS.items():
            self._literal(name, check)
        self._ignored(tuple(MCP_INPUTS))

    def _llm(self) -> None:
        self._need("prompt", "An llm node needs the input `prompt`.")
        steps = (*self._node.steps, "inputs")
        inputs = self._model.inputs
        check_llm_inputs(inputs, steps, self._registered, self._problems, self._node.id, has_expression)
        self._ignored(FIELDS)

    def _a2a(self) -> None:
        self._need("url", "An a2a node needs the input `url`: where the agent, or its agent card, is found.")
        if self._model.inputs.get("protocol") == "wayang":
            self._need("target", "With `protocol: wayang` an a2a node needs the input `target`: which agent is meant.")
        for name, check in A2A_INPUTS.items():
            self._literal(name, check)
        if "message" in self._model.inputs:  # else all other inputs are what is sent
            self._ignored(tuple(A2A_INPUTS))

    def _runtime_hub(self) -> None:
        self._need("url", "A runtime-hub node needs the input `url`, the address of the hub.")
        for name, check in HUB_INPUTS.items():
            self._literal(name, check)
        self._ignored(tuple(HUB_INPUTS))

    def _sleep(self) -> None:
        if not any(self._has(name) for name in ("duration", "seconds")):
            message = 'A sleep node needs the input `duration`, such as "90s", or `seconds`.'
            self._problems.error("MISSING_INPUT", (*self._node.steps, "inputs"), message, self._node.id)
        self._literal("duration", _sleep_duration)
        if "duration" not in self._model.inputs:
            self._literal("seconds", _seconds)
        self._ignored(("duration", "seconds"))

    def _timer(self) -> None:
        steps = (*self._node.steps, "inputs")
        if not any(self._has(name) for name in TIMER_INPUTS):
            message = 'A timer node needs the input `duration`, such as "90s", or `until`, a time.'
            self._problems.error("MISSING_INPUT", steps, message, self._node.id)
        if all(name in self._model.inputs for name in TIMER_INPUTS):
            message = "A timer node takes `duration` or `until`, not both: it fires once."
            self._problems.error("BAD_INPUT", (*steps, "until"), message, self._node.id)
        for name, check in TIMER_INPUTS.items():
            self._literal(name, check)
        self._ignored(tuple(TIMER_INPUTS))

    def _has(self, name: str) -> bool:
        return name in self._model.inputs or name in self._defaults or could_be_brought(self._draft, self._node, name)

    def _need(self, name: str, message: str) -> None:
        if not self._has(name):
            self._problems.error("MISSING_INPUT", (*self._node.steps, "inputs"), message, self._node.id)

    def _literal(self, name: str, check: Callable[[Any], str | None]) -> None:
        value = self._model.inputs.get(name)
        if name not in self._model.inputs or has_expression(value):
            return
        wrong = check(value)
        if wrong is not None:
            message = f"`{name}` {wrong}"
            self._problems.error("BAD_INPUT", (*self._node.steps, "inputs", name), message, self._node.id)

    def _ignored(self, known: tuple[str, ...]) -> None:
        declared = self._model.descriptor.inputs if self._model.descriptor else ()
        names = {*known, *(port.name for port in declared)}
        for name in self._model.inputs:
            if name not in names:
                near = self._problems.near(name, known)
                if near:
                    message = f"A node of type {self._model.type} ignores `{name}`; did you mean `{near[0]}`?"
                    steps = (*self._node.steps, "inputs", name)
                    self._problems.warning("IGNORED_INPUT", steps, message, self._node.id)


def has_expression(value: Any) -> bool:
    """Tell whether anything in a value is only known at run time."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and "${" in item:
            return True
        if isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return False


def _url(value: Any) -> str | None:
    if isinstance(value, str) and re.match(r"https?://[^\s/]", value):
        return None
    return f'is an address with http:// or https://, such as "https://example.org/", not {shown(value)}.'


def _method(value: Any) -> str | None:
    if value in HTTP_METHODS:
        return None
    upper = f"; write {value.upper()}" if isinstance(value, str) and value.upper() in HTTP_METHODS else ""
    return f"is one of {', '.join(HTTP_METHODS)}, not {shown(value)}{upper}."


def _parse(value: Any) -> str | None:
    return None if value in HTTP_PARSE else f"is one of {', '.join(HTTP_PARSE)}, not {shown(value)}."


def _headers(value: Any) -> str | None:
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
        return None
    return f"is an object whose values are texts (in quotes), not {kind_of(value)}."


def _query(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"is an object, not {kind_of(value)}."
    for item in value.values():
        if not all(isinstance(each, (str, int, float)) for each in (item if isinstance(item, list) else [item])):
            return "has texts, numbers and booleans as values, or lists of these."
    return None


def _statuses(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list) and all(
        (isinstance(item, (int, str)) and not isinstance(item, bool) and _STATUS.fullmatch(str(item))) for item in value
    ):
        return None
    return 'is a list of statuses such as 200 and classes such as "2xx".'


def _timeout(value: Any) -> str | None:
    return None if value is None else _duration(value)


def _duration(value: Any, limit: int = MAX_DURATION_MS) -> str | None:
    try:
        ms = parse_duration(value)
    except ValueError as error:
        return f"is no duration: {error}, not {shown(value)}."
    return None if ms <= limit else "is longer than 366 days."


def _sleep_duration(value: Any) -> str | None:
    return _duration(value, MAX_WAIT_MS)


def _seconds(value: Any) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value * 1000 <= MAX_WAIT_MS:
        return None
    return f"is a number of seconds from 0 to those of 366 days, not {shown(value)}."


def _anything(value: Any) -> str | None:
    return None


_HTTP_INPUTS: Mapping[str, Callable[[Any], str | None]] = {
    "url": _url,
    "method": _method,
    "query": _query,
    "headers": _headers,
    "body": _anything,
    "expectedStatuses": _statuses,
    "parse": _parse,
    "timeout": _timeout,
}
