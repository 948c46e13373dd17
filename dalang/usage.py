"""What work has used: tokens and cost, as handlers tell it and events carry it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dalang.canonical import MAX_INTEGER

TOKENS, COST, NODES, WALL_TIME = "tokens", "cost", "nodes", "wallTime"
MAX_COST = 1e12
_DECIMALS = 9
"""Costs are sums of small parts; what is left of binary fractions is cut off."""


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sum of two uses, within what JSON carries exactly."""
    total = dict(one)
    for name, amount in other.items():
        total[name] = total.get(name, 0) + amount
        if name == COST:
            total[name] = min(round(total[name], _DECIMALS), MAX_COST)
        else:
            total[name] = min(total[name], MAX_INTEGER)
    return total


def usage_of(value: Any, *, nodes: bool = False) -> dict[str, Any]:
    """Return what of ``value`` is a use: a worker of another language may have sent anything.

    ``nodes`` says that it is of a run below a node, which counts its nodes, too.
    """
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name in (TOKENS, NODES) if nodes else (TOKENS,):
        amount = value.get(name)
        if type(amount) is int and 0 < amount <= MAX_INTEGER:
            found[name] = amount
    cost = value.get(COST)
    if isinstance(cost, (int, float)) and not isinstance(cost, bool) and math.isfinite(cost) and 0 < cost <= MAX_COST:
        found[COST] = round(float(cost), _DECIMALS)
    return found
