"""What only later versions of Dalang have. A plan that uses any of it is refused: it would mean something else without.

This is the one place that says so; a feature that arrives is taken out of here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.validation.report import Problems, Steps

NODE_TYPES: Mapping[str, str] = {}
NODE_FIELDS: Mapping[str, str] = {}
PLAN_FIELDS: Mapping[str, str] = {}


def _refuse(problems: Problems, steps: Steps, what: str, meaning: str, node: str | None = None) -> None:
    message = (
        f"{what} ({meaning}) needs a later version of Dalang; this version would run the plan without it, so it is"
        " refused."
    )
    problems.error("FEATURE_UNAVAILABLE", steps, message, node)


def take_node_fields(raw: dict[str, Any], steps: Steps, problems: Problems, node: str | None) -> dict[str, Any]:
    """Return the node without the fields of later versions, each of which is a problem."""
    if NODE_FIELDS.keys().isdisjoint(raw):
        return raw
    for name in raw:
        if name in NODE_FIELDS:
            _refuse(problems, (*steps, name), f"The field `{name}`", NODE_FIELDS[name], node)
    return {name: value for name, value in raw.items() if name not in NODE_FIELDS}


def take_plan_fields(raw: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """Return the plan's head without the fields of later versions, each of which is a problem."""
    kept = {}
    for name, value in raw.items():
        if name in PLAN_FIELDS:
            _refuse(problems, (name,), f"The field `{name}`", PLAN_FIELDS[name])
        else:
            kept[name] = value
    return kept


def refuse_type(name: str, steps: Steps, problems: Problems, node: str | None) -> bool:
    """Tell whether ``name`` is a node type of a later version, which is a problem."""
    if name not in NODE_TYPES:
        return False
    _refuse(problems, steps, f"The node type `{name}`", NODE_TYPES[name], node)
    return True
