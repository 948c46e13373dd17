"""What JSON Schema has against a value, in plain and short sentences: the library's hold the whole value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import ValidationError
from jsonschema.exceptions import relevance

from dalang.validation.report import Steps, shown


def sentence(error: ValidationError) -> tuple[str, Steps, str]:
    """Return code, place in the instance, and sentence."""
    steps: Steps = tuple(error.absolute_path)
    keyword: Any = error.validator
    wanted: Any = error.validator_value
    value: Any = error.instance
    if keyword is None:
        return "INVALID_INPUT", steps, "Nothing is allowed here."
    if keyword == "required":
        return "MISSING_INPUT", steps, f"`{error.message[:80]}` is missing."
    if keyword == "additionalProperties":
        return "UNKNOWN_INPUT", steps, f"There is no such input: `{error.message[:80]}`."
    if keyword in ("anyOf", "oneOf") and error.context:
        nearest = sentence(min(error.context, key=relevance))[2]
        return "INVALID_INPUT", steps, f"{_of(value)} fits none of the {len(wanted)} alternatives. Nearest: {nearest}"
    return "INVALID_INPUT", steps, _plain(keyword, wanted, value)


def _of(value: Any) -> str:
    text = shown(value)
    return text[:1].upper() + text[1:]


_LIMITS: Mapping[str, str] = {
    "minLength": "This text has at least {} characters.",
    "maxLength": "This text has at most {} characters.",
    "minItems": "This list has at least {} elements.",
    "maxItems": "This list has at most {} elements.",
    "minProperties": "This object has at least {} properties.",
    "maxProperties": "This object has at most {} properties.",
    "minimum": "This number is at least {}.",
    "maximum": "This number is at most {}.",
    "exclusiveMinimum": "This number is more than {}.",
    "exclusiveMaximum": "This number is less than {}.",
    "multipleOf": "This number is a multiple of {}.",
}


def _plain(keyword: str, wanted: Any, value: Any) -> str:
    if keyword in _LIMITS:
        return _LIMITS[keyword].format(shown(wanted))
    if keyword == "type":
        names = wanted if isinstance(wanted, list) else [wanted]
        return f"This is of type {' or '.join(map(str, names))}, not {shown(value)}."
    if keyword == "enum":
        more = ", ..." if len(wanted) > 20 else ""
        return f"This is one of {', '.join(map(shown, wanted[:20]))}{more}, not {shown(value)}."
    sentences = {
        "const": f"This is {shown(wanted)}, not {shown(value)}.",
        "pattern": f"{_of(value)} does not match the pattern `{str(wanted)[:100]}`.",
        "uniqueItems": "This list holds the same element twice.",
        "oneOf": f"{_of(value)} fits more than one of the alternatives.",
        "not": f"{_of(value)} is what the schema excludes.",
        "contains": "No element of this list is what the schema asks for.",
        "unevaluatedProperties": "This object has properties that the schema does not describe.",
    }
    return sentences.get(keyword, f"{_of(value)} is not what the keyword `{keyword}` asks for.")
