"""A validator of JSON Schema (Draft 2020-12) that ends, whatever schema and instance are.

The ``jsonschema`` library evaluates; here every keyword is charged for what it looks at, and a budget ends it:
references that double at each level, long enumerations over long lists, alternatives of alternatives. Where the library
compares each pair (``uniqueItems``) or backtracks (``pattern``), other code takes its place. Nothing is ever loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # has no stubs
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from dalang.canonical import canonical_bytes
from dalang.validation.patterns import matches, weight

MAX_STEPS = 1_000_000
"""The budget: one step is a keyword at a small value, some ten microseconds at most."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class TooCostly(Exception):
    """The budget of steps is used up."""


class Budget:
    """Steps that are left."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps

    def charge(self, steps: int) -> None:
        """Take ``steps``; raises TooCostly when there are none left."""
        self._left -= steps
        if self._left < 0:
            raise TooCostly


def schema_errors(schema: Mapping[str, Any], instance: Any, budget: Budget) -> Iterator[ValidationError]:
    """Yield the errors of ``instance``; raises TooCostly and RecursionError while it does.

    ``schema`` is one that ``input_schema.schema_problems`` has nothing against.
    """
    # The library would take another validator for a schema that names its dialect.
    own = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    validator = _validator_class(budget)(own, registry=Registry())
    yield from validator.iter_errors(instance)


def schema_is_one(schema: Any, budget: Budget) -> Iterator[ValidationError]:
    """Yield the errors of ``schema`` by the meta-schema; raises TooCostly and RecursionError while it does."""
    meta, registry = _meta_schema()
    yield from _validator_class(budget)(meta, registry=registry).iter_errors(schema)


@cache
def _meta_schema() -> tuple[Any, Any]:
    """Return the meta-schema and its vocabularies without ``$schema``, for the same reason as above."""
    registry: Any = Registry()
    for uri in REGISTRY:
        if uri.startswith("https://json-schema.org/draft/2020-12/"):
            contents = {key: value for key, value in REGISTRY.contents(uri).items() if key != "$schema"}
            registry = registry.with_resource(uri, DRAFT202012.create_resource(contents))
    return registry.contents(DIALECT), registry


def _validator_class(budget: Budget) -> Any:
    keywords = {**cast(Mapping[str, Keyword], Draft202012Validator.VALIDATORS), **_own_keywords(budget)}
    charged = {name: _charged(name, keyword, budget) for name, keyword in keywords.items()}
    return extend(Draft202012Validator, charged)  # type: ignore[no-untyped-call]  # the library does not say


def _charged(name: str, keyword: Keyword, budget: Budget) -> Keyword:
    base = 5 if name in ("$ref", "$dynamicRef") else 1
    is_quadratic = name in ("unevaluatedProperties", "unevaluatedItems")

    def run(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        size = len(instance) if isinstance(instance, (dict, list)) else 0
        width = len(value) if isinstance(value, (dict, list)) else 0
        budget.charge(base + size // 16 + width // 16 + (size * size // 500 if is_quadratic else 0))
        for error in keyword(validator, value, instance, schema) or ():
            # The library's messages hold the instance, all of it.
            budget.charge(1 + len(error.message) // 256)
            yield error

    return run


def _own_keywords(budget: Budget) -> dict[str, Keyword]:
    def found(pattern: str, text: str) -> bool:
        heavy = weight(pattern)
        budget.charge(1 + heavy // 50 + heavy * min(len(text), 2000) // 1000 + len(text) // 64)
        return matches(pattern, text)

    def pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not found(pattern, instance):
            yield ValidationError("pattern")

    def pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        for key, value in instance.items() if isinstance(instance, Mapping) else ():
            for each, subschema in patterns.items():
                if found(each, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=each)

    def additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not isinstance(instance, Mapping):
            return
        properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for key, value in instance.items():
            if key in properties or any(found(each, key) for each in patterns):
                continue
            if allowed is False:
                error = ValidationError(key)
                error.path.appendleft(key)
                yield error
            else:
                yield from validator.descend(value, allowed, path=key)

    def unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if unique and isinstance(instance, list):
            seen: set[bytes] = set()
            for item in instance:
                encoded = canonical_bytes(item)
                budget.charge(1 + len(encoded) // 64)
                if encoded in seen:
                    yield ValidationError("uniqueItems")
                    return
                seen.add(encoded)

    def required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        for name in names if isinstance(instance, Mapping) else ():
            if name not in instance:
                yield ValidationError(name)

    return {
        "pattern": pattern,
        "patternProperties": pattern_properties,
        "additionalProperties": additional_properties,
        "uniqueItems": unique_items,
        "required": required,
    }
