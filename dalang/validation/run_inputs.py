"""The inputs of a run against the plan's JSON Schema.

A schema comes from whoever wrote the plan, inputs from whoever starts it: neither may hang or end the process, so both
are bounded in size and the check in steps (``bounded_schema.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dalang.canonical import compact_json, find_unsafe
from dalang.errors import Problem
from dalang.plan import Plan
from dalang.validation.bounded_schema import MAX_STEPS, Budget, TooCostly, schema_errors
from dalang.validation.report import MAX_PROBLEMS, Problems, kind_of
from dalang.validation.schema_sentences import sentence

MAX_INPUT_BYTES = 1024 * 1024
"""The largest inputs of a run, as JSON."""


def with_input_defaults(plan: Plan, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``inputs`` with the defaults of the schema's top-level properties for what is not given."""
    return with_schema_defaults(plan.inputs or {}, inputs or {})


def with_schema_defaults(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``inputs`` with the defaults of the top-level properties of ``schema``."""
    filled = dict(inputs)
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        for name, schema in properties.items():
            if name not in filled and isinstance(schema, Mapping) and "default" in schema:
                filled[name] = copy.deepcopy(schema["default"])
    return filled


def inputs_problems(plan: Plan, inputs: Any) -> list[Problem]:
    """Return what is wrong with ``inputs`` for a run of ``plan``, defaults filled in; pointers lead into the inputs.

    ``plan`` is one that validation accepted. Raises nothing. The worst schemas take some seconds: call it off the loop.
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


def schema_problems(schema: Mapping[str, Any], inputs: dict[str, Any], steps: int = MAX_STEPS) -> list[Problem]:
    """Return what is wrong with ``inputs``, defaults filled in, by a schema that validation accepted; raises nothing.

    It takes at most so many steps, and is the same in every process.
    """
    problems = Problems()
    _check(schema, inputs, problems, steps)
    return list(problems.listed())


def _check(schema: Mapping[str, Any], inputs: dict[str, Any], problems: Problems, steps: int = MAX_STEPS) -> None:
    try:
        for count, error in enumerate(schema_errors(schema, inputs, Budget(steps))):
            problems.error(*sentence(error))
            if count >= MAX_PROBLEMS:
                break
    except (TooCostly, RecursionError):
        message = "Checking the inputs against the plan's schema takes too many steps; simplify the schema."
        problems.error("SCHEMA_TOO_COSTLY", (), message)
    except Exception as error:  # a schema that validation would have refused: say so, never fail the caller
        message = f"The plan's `inputs` cannot be used as a schema ({type(error).__name__}); validate the plan."
        problems.error("BAD_INPUT_SCHEMA", (), message)
