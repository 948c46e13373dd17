"""The JSON Schema of a plan (Draft 2020-12), for editors and other tools: the shape, made from the models.

What a schema cannot say, ``validation`` checks. ``python -m dalang.reference`` writes it to ``docs/plan.schema.json``.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from dalang.durations import MAX_DURATION_MS, Duration, format_duration
from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import MAX_EDGES, MAX_NODES, Plan
from dalang.plan_base import PRIORITY_WORDS
from dalang.program import JOIN_WORDS

SCHEMA_ID = "urn:dalang:plan"
DURATION_PATTERN = (
    r"^(([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+"
    r"|P(?=.)([0-9]+(\.[0-9]+)?W)?([0-9]+(\.[0-9]+)?D)?"
    r"(T(?=.)([0-9]+(\.[0-9]+)?H)?([0-9]+(\.[0-9]+)?M)?([0-9]+(\.[0-9]+)?S)?)?)$"
)
_DURATION = {"$ref": "#/$defs/Duration"}
_DURATION_EXAMPLES = TypeAdapter(Duration).json_schema()["examples"]
"""What tells a field of the models' schema to be a duration."""
_PRIORITY = {"$ref": "#/$defs/Priority"}


def plan_schema() -> dict[str, Any]:
    """Return the JSON Schema of a plan in Dalang's own form."""
    made = Plan.model_json_schema(by_alias=True)
    definitions = {name: _definition(schema) for name, schema in made.pop("$defs").items()}
    plan = _definition(made)
    plan["required"] = ["name", "nodes"]
    plan["properties"]["nodes"] |= {"minItems": 1, "maxItems": MAX_NODES}
    plan["properties"]["edges"] |= {"maxItems": MAX_EDGES}
    definitions["Node"]["properties"]["type"]["examples"] = list(BUILT_IN_TYPES)
    definitions["Node"]["properties"]["join"]["examples"] = [*JOIN_WORDS, "(e1 && e2) || !e3"]
    definitions["Duration"] = {
        "title": "Duration",
        "description": 'A text such as "90s", "2h", "1h30m" or "500ms", or ISO 8601 such as "PT5M"; at most ten years.',
        "type": "string",
        "pattern": DURATION_PATTERN,
        "examples": ["500ms", "30s", "10m", "1h30m", "2h", "PT5M"],
    }
    words = ", ".join(f"{word} is {number}" for word, number in PRIORITY_WORDS.items())
    definitions["Priority"] = {
        "title": "Priority",
        "description": f"An integer, larger first, or a word: {words}.",
        "anyOf": [{"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}, {"enum": list(PRIORITY_WORDS)}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **plan,
        "title": "Dalang plan",
        "$defs": dict(sorted(definitions.items())),
    }


def _definition(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one model: durations and priorities by reference, durations in milliseconds too."""
    if "description" in schema:
        schema["description"] = schema["description"].replace("``", "`")
    properties: dict[str, Any] = {}
    for name, given in schema.get("properties", {}).items():
        field = _field(given)
        properties[name] = field
        if field.get("$ref") == _DURATION["$ref"] or _DURATION in field.get("anyOf", ()):
            properties[f"{name}Ms"] = {
                "description": f"`{name}` in milliseconds, instead of it.",
                "type": "integer",
                "minimum": 0,
                "maximum": MAX_DURATION_MS,
            }
    return {**schema, **({"properties": properties} if properties else {})}


def _field(field: dict[str, Any]) -> dict[str, Any]:
    # Titles are the names over again; a default of null says no more than that the field may be left out.
    field = {key: value for key, value in field.items() if key != "title" and not (key == "default" and value is None)}
    if "description" in field:
        field["description"] = field["description"].replace("``", "`")
    if isinstance(field.get("default"), dict):
        field["default"] = {}
    rest = {key: value for key, value in field.items() if key in ("default", "description")}
    if "ge" in field:
        return {**_PRIORITY, **rest}
    if "anyOf" in field:
        field["anyOf"] = [_field(choice) for choice in field["anyOf"]]
    if field.get("examples") == _DURATION_EXAMPLES:
        if rest.get("description", "").startswith("A duration:"):
            del rest["description"]
        return {**_DURATION, **rest, **({"default": format_duration(rest["default"])} if "default" in rest else {})}
    return field
