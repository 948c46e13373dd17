"""The plan's ``inputs``: a JSON Schema (Draft 2020-12) that Dalang can check against without harm.

Beyond what the meta-schema says: references are local, since nothing is ever loaded; patterns are RE2's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from dalang.canonical import compact_json
from dalang.validation.bounded_schema import DIALECT, Budget, TooCostly, schema_errors, schema_is_one
from dalang.validation.patterns import MAX_PATTERN, is_pattern
from dalang.validation.report import Problems, Steps
from dalang.validation.schema_sentences import sentence

MAX_SCHEMA_BYTES = 256 * 1024
MAX_PATTERNS = 200
_MAX_PROBLEMS = 20


def check_input_schema(schema: Mapping[str, Any], problems: Problems) -> None:
    """Report why ``schema`` cannot be checked against."""
    for steps, message in schema_problems(schema):
        problems.error("BAD_INPUT_SCHEMA", ("inputs", *steps), message)


def schema_problems(schema: Mapping[str, Any], what: str = "The inputs of a run") -> list[tuple[Steps, str]]:
    """Return what is wrong with ``schema``, each with its place: a bounded number of problems, none for a good one.

    ``what`` says what is an object and has to satisfy the schema.
    """
    size = len(compact_json(schema))
    if size > MAX_SCHEMA_BYTES:
        return [((), f"The schema has {size:,} bytes; at most {MAX_SCHEMA_BYTES:,} are read.")]
    found = dict.fromkeys(_first(_by_meta_schema(schema, what)))
    if not found:
        found.update(dict.fromkeys(_first(_beyond_meta_schema(schema))))
    if not found:
        found.update(dict.fromkeys(_first(_bad_defaults(schema))))
    return list(found)


def _first(found: Iterator[tuple[Steps, str]]) -> Iterator[tuple[Steps, str]]:
    for _ in range(_MAX_PROBLEMS):
        problem = next(found, None)
        if problem is None:
            return
        yield problem


def _by_meta_schema(schema: Mapping[str, Any], what: str) -> Iterator[tuple[Steps, str]]:
    try:
        for error in schema_is_one(schema, Budget()):
            _, steps, text = sentence(error)
            yield steps, f"This is no JSON Schema (Draft 2020-12): {text}"
    except (TooCostly, RecursionError):
        yield (), "The schema is too large or too deep to be checked."
    if schema.get("type", "object") != "object":
        yield ("type",), f"{what} are an object, so the schema's type is `object`."


def _beyond_meta_schema(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    anchors = {value for _, key, value in _keywords(schema) if key in ("$anchor", "$dynamicAnchor")}
    for steps, key, value in _keywords(schema):
        if key in ("$ref", "$dynamicRef"):
            if not value.startswith("#"):
                yield (*steps, key), f"`{value[:80]}` is not in this schema, and nothing is loaded; use #/$defs/<name>."
            elif not _resolves(schema, value[1:], anchors):
                yield (*steps, key), f"`{value[:80]}` leads nowhere in this schema."
        elif key == "$schema" and (steps or value.rstrip("#") != DIALECT):
            yield (*steps, key), f"Schemas are read as Draft 2020-12: leave `$schema` out, or write {DIALECT}."
        elif key == "$id" and steps:
            yield (*steps, key), "`$id` below the root would change what references mean; leave it out."
    for count, (steps, pattern) in enumerate(_patterns(schema)):
        if count >= MAX_PATTERNS:
            yield (), f"The schema has more than {MAX_PATTERNS} patterns."
            return
        if not is_pattern(pattern):
            message = (
                f"`{pattern[:80]}` is no pattern that Dalang can check: patterns have RE2's syntax, without lookaround"
                f" and back-references, at most {MAX_PATTERN} characters, and no large repetitions."
            )
            yield steps, message


def _bad_defaults(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    """Yield the defaults that their own schema refuses: every run that leaves the input out would be refused."""
    budget = Budget()
    for name, part in schema.get("properties", {}).items():
        if not isinstance(part, Mapping) or "default" not in part:
            continue
        only = {"properties": {name: part}, "$defs": schema.get("$defs", {})}
        if any(key == "$ref" and not value.startswith("#/$defs/") for _, key, value in _keywords(only)):
            continue
        try:
            error = next(schema_errors(only, {name: part["default"]}, budget), None)
        except (TooCostly, RecursionError):
            yield ("properties", name), "Checking the default against its schema takes too many steps."
            return
        if error is not None:
            yield ("properties", name, "default"), f"Its own schema refuses this default: {sentence(error)[2]}"


def _walk(schema: Any) -> Iterator[tuple[Steps, Mapping[str, Any]]]:
    stack: list[tuple[Steps, Any]] = [((), schema)]
    while stack:
        steps, value = stack.pop()
        if isinstance(value, Mapping):
            yield steps, value
            stack.extend(((*steps, key), value[key]) for key in reversed(list(value)))
        elif isinstance(value, (list, tuple)):
            stack.extend(((*steps, index), value[index]) for index in range(len(value) - 1, -1, -1))


def _keywords(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    """Yield the keywords whose value is a text. A property of the same name has a schema as value, so it is none."""
    for steps, value in _walk(schema):
        for key, item in value.items():
            if isinstance(item, str):
                yield steps, key, item


def _patterns(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    for steps, value in _walk(schema):
        pattern, patterns = value.get("pattern"), value.get("patternProperties")
        if isinstance(pattern, str):
            yield (*steps, "pattern"), pattern
        if isinstance(patterns, Mapping) and not (steps and steps[-1] == "properties"):
            yield from (((*steps, "patternProperties", key), key) for key in patterns)


def _resolves(schema: Any, fragment: str, anchors: Iterable[str]) -> bool:
    fragment = unquote(fragment)
    if not fragment.startswith("/"):
        return not fragment or fragment in anchors
    value = schema
    for step in fragment[1:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, (list, tuple)) and step.isdecimal() and len(step) < 8 and int(step) < len(value):
            value = value[int(step)]
        else:
            return False
    return isinstance(value, (Mapping, bool))
