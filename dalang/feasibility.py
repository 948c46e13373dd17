"""What a plan asks of pools that they can never give: warnings, since pools come and go while plans stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.canonical import pointer
from dalang.errors import Problem
from dalang.needs import UNLEASED, sizes_of
from dalang.program_columns import NodeColumns

MAX_WARNINGS = 100
LARGER_THAN_POOL, UNKNOWN_POOL = "LARGER_THAN_POOL", "UNKNOWN_POOL"


def pool_warnings(program: Mapping[str, Any], most: Mapping[str, float], names: frozenset[str]) -> list[Problem]:
    """Return what a compiled plan asks for in vain.

    ``most`` is the largest amount of each pool that a node can have at once, ``names`` are all pools there are.
    """
    found: list[Problem] = []
    unknown: set[str] = set()
    first_finally = program["finally"]
    nodes = NodeColumns.of(program["nodes"])
    for at, (node_id, node) in enumerate(zip(nodes.ids, nodes.definitions, strict=True)):
        if node["type"] in UNLEASED:
            continue
        place = ("nodes", at) if at < first_finally else ("finally", at - first_finally)
        pools: Mapping[str, list[Any]] = node.get("pools", {})
        amounts = {**sizes_of(node), **{name: amount for name, (amount, _) in pools.items()}}
        for name, amount in amounts.items():
            steps = (*place, "requirements", *(("pools", name) if name in pools else ("resources",)))
            if name in most and amount > most[name] + 1e-9:
                text = f"It needs {amount:g} of the pool {name}, which has {most[name]:g} in all: it would fail."
                found.append(_warning(LARGER_THAN_POOL, steps, text, node_id))
            elif name in pools and name not in names and name not in unknown:
                unknown.add(name)  # once: what is the matter is the pool, not each node that names it
                text = f"There is no pool {name} now, so nothing limits the nodes that ask for it."
                found.append(_warning(UNKNOWN_POOL, steps, text, node_id))
            if len(found) >= MAX_WARNINGS:
                return found
    return found


def _warning(code: str, steps: tuple[str | int, ...], message: str, node: str) -> Problem:
    return Problem(pointer=pointer(*steps), code=code, message=message, severity="warning", node_id=node)
