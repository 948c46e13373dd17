"""The inputs of a run against the plan's JSON Schema (Draft 2020-12).

A schema comes from whoever wrote the plan, inputs from whoever starts it, so neither may hang or end the process:

- ``pattern`` and ``patternProperties`` go to the linear-time engine of CEL (RE2): no backtracking, and no lookaround or
  back-references either, which a plan's schema is refused for;
- ``$ref`` is local (``#/$defs/name``, ``#anchor``), nothing is ever loaded;
- keywords are counted, so that references that double at each level end after a bounded number of steps;
- ``uniqueItems`` compares canonical JSON, not each pair.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import relevance
from jsonschema.validators import extend

from dalang.canonical import canonical_bytes, compact_json, find_unsafe, pointer
from dalang.errors import Problem
from dalang.expressions import ExpressionError, evaluate
from dalang.expressions import compile as compile_expression
from dalang.plan import Plan
from dalang.validation.report import MAX_PROBLEMS, Problems, Steps, kind_of, shown

MAX_INPUT_BYTES = 1024 * 1024
"""The largest inputs of a run, as JSON."""
MAX_STEPS = 300_000
"""How many keywords of a schema are evaluated for one set of inputs."""
_MAX_SCHEMA_PROBLEMS = 20
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooCostly(Exception):
    """The budget of steps is used up."""


def check_input_schema(schema: Mapping[str, Any], problems: Problems) -> None:
    """Report why ``schema``, the plan's ``inputs``, cannot be checked against."""
    for steps, message in _schema_problems(schema):
        problems.error("BAD_INPUT_SCHEMA", ("inputs", *steps), message)


def with_input_defaults(plan: Plan, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``inputs`` with the defaults of the schema's top-level properties for what is not given."""
    filled = dict(inputs or {})
    properties = (plan.inputs or {}).get("properties")
    if isinstance(properties, Mapping):
        for name, schema in properties.items():
            if name not in filled and isinstance(schema, Mapping) and "default" in schema:
                filled[name] = copy.deepcopy(schema["default"])
    return filled


def inputs_problems(plan: Plan, inputs: Any) -> list[Problem]:
    """Return what is wrong with ``inputs`` for a run of ``plan``, defaults filled in; pointers lead into the inputs.

    ``plan`` is one that validation accepted. Raises nothing, whatever schema and inputs are.
    """
    problems = Problems()
    if not isinstance(inputs, Mapping):
        problems.error("NOT_AN_OBJECT", (), f"The inputs of a run are an object, not {kind_of(inputs)}.")
        return list(problems.listed())
    unsafe = find_unsafe(inputs)
    if unsafe is not None:
        steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in unsafe[0].split("/")[1:])
        problems.error("NOT_JSON", steps, f"The value {unsafe[1]}.")
        return list(problems.listed())
    size = len(compact_json(inputs))
    if size > MAX_INPUT_BYTES:
        message = f"The inputs have {size:,} bytes; at most {MAX_INPUT_BYTES:,} are taken. Pass a reference instead."
        problems.error("TOO_LARGE", (), message)
    elif plan.inputs is not None:
        _check(plan.inputs, with_input_defaults(plan, inputs), problems)
    return list(problems.listed())


def _check(schema: Mapping[str, Any], inputs: dict[str, Any], problems: Problems) -> None:
    try:
        for count, error in enumerate(_validator(schema, MAX_STEPS).iter_errors(inputs)):
            if count >= MAX_PROBLEMS:
                break
            code, steps, message = _sentence(error)
            problems.error(code, steps, message)
    except (_TooCostly, RecursionError):
        message = "Checking the inputs against the plan's schema takes too many steps; simplify the schema."
        problems.error("SCHEMA_TOO_COSTLY", (), message)
    except Exception as error:  # a schema that validation would have refused: say so, never fail the caller
        message = f"The plan's `inputs` schema cannot be used: {type(error).__name__}. Validate the plan."
        problems.error("BAD_INPUT_SCHEMA", (), message)


# -- the schema ----------------------------------------------------------------------------------------------------


def _schema_problems(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    found = list(_structural_problems(schema))
    try:
        meta = _validator(Draft202012Validator.META_SCHEMA, MAX_STEPS, trusted=True)
        for count, error in enumerate(meta.iter_errors(schema)):
            if count >= _MAX_SCHEMA_PROBLEMS:
                break
            steps = tuple(error.absolute_path)
            found.append((steps, f"This is no JSON Schema (Draft 2020-12): {_sentence(error)[2]}"))
    except (_TooCostly, RecursionError):
        found.append(((), "The schema is too large or too deep to be checked."))
    if schema.get("type", "object") != "object":
        found.append((("type",), "The inputs of a run are an object, so the schema's type is `object`."))
    yield from list(dict.fromkeys(found))[:_MAX_SCHEMA_PROBLEMS]
    if not found:
        yield from _bad_defaults(schema)


def _bad_defaults(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    """Yield the defaults that their own schema refuses: every run that leaves the input out would be refused."""
    properties = schema.get("properties")
    for name, part in properties.items() if isinstance(properties, Mapping) else ():
        if isinstance(part, Mapping) and "default" in part:
            only = {**schema, "required": [], "properties": {name: part}}
            try:
                error = next(_validator(only, MAX_STEPS).iter_errors({name: part["default"]}), None)
            except (_TooCostly, RecursionError):
                yield ("properties", name), "Checking the default against its schema takes too many steps."
                return
            if error is not None and list(error.absolute_path)[:1] == [name]:
                yield (
                    ("properties", name, "default"),
                    f"The default is not what its own schema asks for: {_sentence(error)[2]}",
                )


def _structural_problems(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    """Yield what no meta-schema says: references that are not local or lead nowhere, dialects, patterns."""
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
        elif key == "pattern" and not _is_pattern(value):
            yield (*steps, key), _pattern_sentence(value)
    for steps, pattern in _property_patterns(schema):
        if not _is_pattern(pattern):
            yield (*steps, pattern), _pattern_sentence(pattern)


def _pattern_sentence(pattern: str) -> str:
    return (
        f"`{pattern[:80]}` is no pattern that Dalang can check: patterns have RE2's syntax, without lookaround and"
        " back-references, and repeat at most 1000 times."
    )


def _walk(schema: Any) -> Iterator[tuple[Steps, Mapping[str, Any]]]:
    stack: list[tuple[Steps, Any]] = [((), schema)]
    while stack:
        steps, value = stack.pop()
        if isinstance(value, Mapping):
            yield steps, value
            stack.extend(((*steps, key), item) for key, item in reversed(value.items()))
        elif isinstance(value, (list, tuple)):
            stack.extend(((*steps, index), value[index]) for index in range(len(value) - 1, -1, -1))


def _keywords(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    """Yield the keywords whose value is a text. A property of the same name has a schema as value, so it is none."""
    for steps, value in _walk(schema):
        for key, item in value.items():
            if isinstance(item, str):
                yield steps, key, item


def _property_patterns(schema: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    for steps, value in _walk(schema):
        patterns = value.get("patternProperties")
        if isinstance(patterns, Mapping) and not (steps and steps[-1] == "properties"):
            for pattern in patterns:
                yield (*steps, "patternProperties"), pattern


def _resolves(schema: Any, fragment: str, anchors: Iterable[str]) -> bool:
    fragment = unquote(fragment)
    if not fragment.startswith("/"):
        return not fragment or fragment in anchors
    value = schema
    for step in fragment[1:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, (list, tuple)) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return False
    return isinstance(value, (Mapping, bool))


# -- a validator that ends -----------------------------------------------------------------------------------------

_MATCHES = compile_expression("inputs.text.matches(inputs.pattern)")


def _matches(pattern: str, text: str) -> bool:
    """Tell whether ``pattern`` is found in ``text``, by RE2; a text that the engine is too small for has no match."""
    try:
        return evaluate(_MATCHES, {"inputs": {"text": text, "pattern": pattern}}) is True
    except ExpressionError:
        return False


@lru_cache(maxsize=1024)
def _is_pattern(pattern: str) -> bool:
    try:
        evaluate(_MATCHES, {"inputs": {"text": "", "pattern": pattern}})
    except ExpressionError:
        return False
    return True


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and isinstance(pattern, str) and not _matches(pattern, instance):
        yield ValidationError("pattern")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, Mapping):
        return
    for pattern, subschema in patterns.items():
        for key, value in instance.items():
            if _matches(pattern, key):
                yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, Mapping):
        return
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [key for key in instance if key not in properties and not any(_matches(each, key) for each in patterns)]
    if isinstance(allowed, Mapping):
        for key in extra:
            yield from validator.descend(instance[key], allowed, path=key)
    elif allowed is False:
        for key in extra:
            error = ValidationError(key)
            error.path.appendleft(key)
            yield error


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if unique and isinstance(instance, list):
        seen: set[bytes] = set()
        for item in instance:
            encoded = canonical_bytes(item)
            if encoded in seen:
                yield ValidationError("uniqueItems")
                return
            seen.add(encoded)


def _required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, Mapping):
        for name in names:
            if name not in instance:
                yield ValidationError(name)


_OWN: Mapping[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "required": _required,
}


def _validator(schema: Mapping[str, Any], max_steps: int, *, trusted: bool = False) -> Any:
    """Return a validator that evaluates at most ``max_steps`` keywords; ``trusted`` keeps the schema's own identity."""
    budget = [max_steps]

    def counted(keyword: Keyword) -> Keyword:
        def run(validator: Any, value: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
            budget[0] -= 1
            for error in keyword(validator, value, instance, parent) or ():
                # A message may hold the whole instance: what is said costs too.
                budget[0] -= 1 + len(error.message) // 256
                if budget[0] < 0:
                    raise _TooCostly
                yield error
            if budget[0] < 0:
                raise _TooCostly

        return run

    keywords = {name: counted(cast(Keyword, check)) for name, check in Draft202012Validator.VALIDATORS.items()}
    keywords.update({name: counted(check) for name, check in _OWN.items()})
    if trusted:
        bounded = extend(Draft202012Validator, keywords)
        return _without_dialect(bounded)(schema)
    own = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    return extend(Draft202012Validator, keywords)(own)


def _without_dialect(validator: Any) -> Any:
    return validator


def _sentence(error: ValidationError) -> tuple[str, Steps, str]:
    """Return code, place and sentence for an error of the schema's."""
    steps: Steps = tuple(error.absolute_path)
    keyword, wanted, value = str(error.validator), error.validator_value, error.instance
    if keyword == "required":
        return "MISSING_INPUT", steps, f"`{error.message}` is missing."
    if error.validator is None or keyword == "None":
        return "INVALID_INPUT", steps, "Nothing is allowed here."
    if keyword in ("additionalProperties", "unevaluatedProperties"):
        return "UNKNOWN_INPUT", steps, f"There is no such input{f': `{steps[-1]}`' if steps else ''}."
    if keyword in ("anyOf", "oneOf") and error.context:
        best = min(error.context, key=relevance)
        nearest = _sentence(best)[2] if best.parent is error else ""
        return "INVALID_INPUT", steps, f"{_of(value)} fits none of the {len(wanted)} alternatives. {nearest}".rstrip()
    return "INVALID_INPUT", steps, _plain_sentence(keyword, wanted, value)


def _of(value: Any) -> str:
    text = shown(value)
    return text[:1].upper() + text[1:]


def _plain_sentence(keyword: str, wanted: Any, value: Any) -> str:
    if keyword == "type":
        names = wanted if isinstance(wanted, list) else [wanted]
        return f"This is of type {' or '.join(map(str, names))}, not {shown(value)}."
    if keyword == "enum":
        return f"This is one of {', '.join(map(shown, wanted[:20]))}, not {shown(value)}."
    sentences = {
        "const": f"This is {shown(wanted)}, not {shown(value)}.",
        "pattern": f"{_of(value)} does not match the pattern `{str(wanted)[:100]}`.",
        "minLength": f"This text has at least {wanted} characters.",
        "maxLength": f"This text has at most {wanted} characters.",
        "minimum": f"This is at least {wanted}, not {shown(value)}.",
        "maximum": f"This is at most {wanted}, not {shown(value)}.",
        "exclusiveMinimum": f"This is more than {wanted}, not {shown(value)}.",
        "exclusiveMaximum": f"This is less than {wanted}, not {shown(value)}.",
        "multipleOf": f"This is a multiple of {wanted}, not {shown(value)}.",
        "minItems": f"This list has at least {wanted} elements.",
        "maxItems": f"This list has at most {wanted} elements.",
        "uniqueItems": "This list holds the same element twice.",
        "minProperties": f"This object has at least {wanted} properties.",
        "maxProperties": f"This object has at most {wanted} properties.",
        "oneOf": f"{_of(value)} fits more than one of the alternatives.",
        "not": f"{_of(value)} is what the schema excludes.",
        "contains": "No element of this list is what the schema asks for.",
    }
    return sentences.get(keyword, f"{_of(value)} is not what the keyword `{keyword}` asks for.")


__all__ = ["check_input_schema", "inputs_problems", "pointer", "with_input_defaults"]
