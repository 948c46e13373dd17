"""A form that is built from a JSON Schema: of a human task, or of a plan's inputs.

What a form cannot show as fields - alternatives, objects of any kind, lists of objects - is a field for JSON. What was
filled in is judged by the REST API alone; a field carries the JSON Pointer of its value, where a problem is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dalang.canonical import pointer

MAX_DEPTH = 4
MAX_FIELDS = 200
LONG_TEXT = 200
"""A text that may be longer than this has a field of several lines."""
_INPUTS = {
    "date": "date",
    "time": "time",
    "email": "email",
    "uri": "url",
    "url": "url",
    "color": "color",
    "password": "password",
}
_LIMITS = {
    "minimum": "min",
    "maximum": "max",
    "multipleOf": "step",
    "minLength": "minlength",
    "maxLength": "maxlength",
    "pattern": "pattern",
}


@dataclass(frozen=True)
class Field:
    """A field: ``kind`` is text, long, number, integer, boolean, choice, choices, list, object or json.

    ``choices`` are pairs of JSON text and label, ``parts`` the fields of an object or the one of a list's elements.
    """

    pointer: str
    label: str
    kind: str
    required: bool = False
    hint: str = ""
    value: Any = None
    input: str = "text"
    choices: tuple[tuple[str, str], ...] = ()
    parts: tuple[Field, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of its element."""
        return "field" + self.pointer.replace("/", "-").replace(" ", "_")


def fields_of(schema: Any, values: Mapping[str, Any] | None = None, *, below: str = "") -> tuple[Field, ...]:
    """Return the fields of an object's schema, filled with ``values``, else with its defaults; none: no form."""
    return _Fields(schema).of_object(schema, values or {}, below, 0) if isinstance(schema, dict) else ()


class _Fields:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MAX_FIELDS

    def of_object(self, schema: Any, values: Mapping[str, Any], below: str, depth: int) -> tuple[Field, ...]:
        properties = schema.get("properties")
        required = schema.get("required")
        names = list(properties) if isinstance(properties, dict) else []
        needed = [one for one in required if isinstance(one, str)] if isinstance(required, list) else []
        names.sort(key=lambda one: needed.index(one) if one in needed else len(needed))  # Postgres keeps no other order
        found = []
        for name in names:
            if self._left <= 0:
                break
            self._left -= 1
            found.append(self._one(properties[name], name, f"{below}{pointer(name)}", name in needed, values, depth))
        return tuple(found)

    def _one(self, schema: Any, name: str, at: str, required: bool, values: Mapping[str, Any], depth: int) -> Field:
        schema = self._resolved(schema)
        value = values.get(name, schema.get("default"))
        label = _text(schema.get("title")) or _words(name)
        common: dict[str, Any] = {"required": required, "hint": _text(schema.get("description"))}
        kind, more = self._kind(schema, at, value, depth)
        return Field(at, label, kind, value=more.pop("value", value), **common, **more)

    def _kind(self, schema: Mapping[str, Any], at: str, value: Any, depth: int) -> tuple[str, dict[str, Any]]:
        choices = _choices(schema)
        if choices:
            return "choice", {"choices": choices, "value": json.dumps(value) if value is not None else None}
        limits = {
            html: schema[name] for name, html in _LIMITS.items() if isinstance(schema.get(name), (int, float, str))
        }
        match _type(schema):
            case "string":
                return self._string(schema, limits, value)
            case "integer" | "number" as kind:
                limits.setdefault("step", 1 if kind == "integer" else "any")
                return kind, {"limits": limits, "input": "number"}
            case "boolean":
                return "boolean", {}
            case "object" if isinstance(schema.get("properties"), dict) and depth < MAX_DEPTH:
                given = value if isinstance(value, dict) else {}
                return "object", {"parts": self.of_object(schema, given, at, depth + 1)}
            case "array":
                return self._array(schema, at, value, depth)
        return "json", {"value": "" if value is None else json.dumps(value, ensure_ascii=False, indent=2)}

    def _string(self, schema: Mapping[str, Any], limits: dict[str, Any], value: Any) -> tuple[str, dict[str, Any]]:
        form = schema.get("format")
        if form == "date-time":
            return "moment", {"input": "datetime-local"}
        most = schema.get("maxLength")
        is_long = (isinstance(most, int) and most > LONG_TEXT) or (isinstance(value, str) and "\n" in value)
        if form in ("textarea", "markdown") or (is_long and form not in _INPUTS):
            return "long", {"limits": {key: one for key, one in limits.items() if key != "pattern"}}
        return "text", {"limits": limits, "input": _INPUTS.get(form, "text") if isinstance(form, str) else "text"}

    def _array(self, schema: Mapping[str, Any], at: str, value: Any, depth: int) -> tuple[str, dict[str, Any]]:
        items = self._resolved(schema.get("items", {}))
        given = value if isinstance(value, list) else []
        choices = _choices(items)
        if choices and schema.get("uniqueItems") is True:
            return "choices", {"choices": choices, "value": [json.dumps(one) for one in given]}
        element = self._one(items, "element", f"{at}/-", False, {}, depth + 1)
        if element.kind in ("text", "long", "number", "integer", "choice"):
            return "list", {"parts": (element,), "value": given}
        return "json", {"value": json.dumps(value, ensure_ascii=False, indent=2) if value is not None else ""}

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        """Return the schema that a chain of ``$ref`` within the document ends at, with what stands beside them."""
        beside: dict[str, Any] = {}
        for _ in range(10):
            if not isinstance(schema, dict):
                return beside
            reference = schema.get("$ref")
            beside = {**{key: one for key, one in schema.items() if key != "$ref"}, **beside}
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return beside
            schema = self._root
            for step in reference[2:].split("/"):
                step = step.replace("~1", "/").replace("~0", "~")
                schema = schema.get(step) if isinstance(schema, dict) else None
        return beside


def _type(schema: Mapping[str, Any]) -> str | None:
    """Return the one type that a schema names besides null."""
    kind = schema.get("type")
    kinds = [one for one in kind if one != "null"] if isinstance(kind, list) else [kind]
    if kinds == [None] and isinstance(schema.get("properties"), dict):
        return "object"
    return kinds[0] if len(kinds) == 1 and isinstance(kinds[0], str) else None


def _choices(schema: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the values to choose from: of ``enum``, or of alternatives that are constants with titles."""
    if isinstance(schema.get("enum"), list):
        return tuple((json.dumps(one), one if isinstance(one, str) else json.dumps(one)) for one in schema["enum"])
    alternatives = schema.get("oneOf") or schema.get("anyOf")
    if (
        isinstance(alternatives, list)
        and alternatives
        and all(isinstance(a, dict) and "const" in a for a in alternatives)
    ):
        return tuple((json.dumps(a["const"]), _text(a.get("title")) or str(a["const"])) for a in alternatives)
    return ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _words(name: str) -> str:
    """Return a property's name as a label: ``maxRetries`` is Max retries."""
    text = "".join(f" {one.lower()}" if one.isupper() else one for one in name).replace("_", " ").replace("-", " ")
    return (text.strip() or name)[:1].upper() + (text.strip() or name)[1:] if any(map(str.islower, name)) else name
