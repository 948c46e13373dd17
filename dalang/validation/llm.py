"""The inputs of ``llm`` nodes and planners, as far as they are literals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dalang.llm_answers import uses_reserved
from dalang.llm_inputs import FIELDS, RESERVED, SECRET_NAMES, problems_of
from dalang.validation.input_schema import schema_problems
from dalang.validation.report import Problems, Steps, shown

WHOSE = "What the model answers"


def check_llm_inputs(
    inputs: Mapping[str, Any],
    steps: Steps,
    registered: frozenset[str] | None,
    problems: Problems,
    node: str | None,
    has_expression: Callable[[Any], bool],
) -> None:
    """Report what is wrong with inputs; ``steps`` lead to them."""
    for name in SECRET_NAMES.intersection(inputs):
        message = f"`{name}` does not belong in a plan: how a model is reached stands in the operator's file of models."
        problems.error("BAD_INPUT", (*steps, name), message, node)
    given = {name: value for name, value in inputs.items() if name in FIELDS and not has_expression(value)}
    for place, text in problems_of(given):
        problems.error("BAD_INPUT", (*steps, *place), f"`{place[0] if place else 'inputs'}`: {text}", node)
    schema = given.get("schema")
    if isinstance(schema, Mapping):
        for place, text in schema_problems(schema, WHOSE):
            problems.error("BAD_INPUT", (*steps, "schema", *place), text, node)
        if uses_reserved(schema):
            message = f"An answer has no property `{RESERVED}`: there the outputs tell of the model's work."
            problems.error("BAD_INPUT", (*steps, "schema", "properties", RESERVED), message, node)
    tools = given.get("tools")
    if registered is not None and isinstance(tools, list):
        _check_tools(tools, steps, registered, problems, node)


def _check_tools(
    tools: list[Any], steps: Steps, registered: frozenset[str], problems: Problems, node: str | None
) -> None:
    for number, tool in enumerate(tools):
        name = tool.get("node") if isinstance(tool, Mapping) else tool
        if isinstance(name, str) and name not in registered:
            hint = problems.hint(name, registered) or f"; there are {', '.join(sorted(registered)[:20]) or 'none'}."
            message = f"No function is registered as {shown(name)}{hint} A local agent is given as {{agent: name}}."
            problems.error("UNKNOWN_HANDLER", (*steps, "tools", number), message, node)
