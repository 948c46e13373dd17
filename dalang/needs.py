"""What a node needs of what is limited: amounts of pools, and somebody with its capabilities. DESIGN section 7.

cpu, memory and gpu have default sizes by node type, those of the seeds; named pools are asked for by name, some with a
key, each of which is a pool of its own (``staging-db/eu``). All of it counts only where it is limited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dalang.program import Program

EVERY_NODE = "*"
"""Among the limited names: the tenant has a quota of nodes, so each of its nodes needs a lease."""
CAPABILITY = "capability:"
"""Begins the limited name of a capability: there are agents for it, and they take so many nodes at once."""
CPU, MEMORY, GPU = "cpu", "memory", "gpu"

_SIZES: Mapping[str, tuple[float, float, float]] = {
    "llm": (2, 2048, 0),
    "agent": (2, 2048, 0),
    "multimodal": (2, 4096, 1),
}
_SMALL = (1, 512, 0)
"""(cores, MiB, gpus) where neither the node nor its type says more."""
UNLEASED = frozenset({"sleep", "timer", "event", "human", "plan", "map", "loop", "noop"})
"""Types that use nothing while they last: they wait, or what they contain asks for itself."""


@dataclass(frozen=True)
class Needs:
    """What a node asks for: ``amounts`` by pool (``name`` or ``name/key``), ``capabilities`` that agents offer."""

    amounts: Mapping[str, float]
    capabilities: tuple[str, ...]
    sticky: bool

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"amounts": dict(self.amounts), "capabilities": list(self.capabilities), "sticky": self.sticky}


def needs_of(
    program: Program, node: int, limited: frozenset[str], context: Callable[[], Mapping[str, Any]]
) -> Needs | None:
    """Return what ``node`` needs of what is ``limited``, or None when that is nothing.

    ``context`` is asked for only where the key of a pool is an expression; what that raises (ExpressionError) is
    passed on.
    """
    document = program.nodes[node]
    if program.types[node] in UNLEASED:
        return None
    amounts = {name: amount for name, amount in sizes_of(document).items() if amount > 0 and name in limited}
    named: Mapping[str, list[Any]] = document.get("pools", {})
    keys: Mapping[str, Any] = {}
    template = program.keys_template(node)
    if template is not None and not limited.isdisjoint(named):
        keys = template.render(context())
    for name, (amount, key) in named.items():
        if name in limited and amount > 0:
            rendered = keys.get(name, key)
            amounts[name if rendered is None else f"{name}/{_text(rendered)}"] = amount
    capabilities = tuple(name for name in wanted_capabilities(document) if CAPABILITY + name in limited)
    if not amounts and not capabilities and EVERY_NODE not in limited:
        return None
    return Needs(amounts, capabilities, bool(document.get("sticky")))


def wanted_capabilities(document: Mapping[str, Any]) -> list[str]:
    """Return what an agent has to offer for a node of a program; one that it names is asked for by its name."""
    if document["type"] == "runtime-hub":
        return []  # what it requires is for the hub to find
    named = [document["handler"]] if document["type"] == "agent" and "handler" in document else []
    return [*document.get("capabilities", ()), *named]


def sizes_of(document: Mapping[str, Any]) -> dict[str, float]:
    """Return what a node of a program takes of cpu, memory and gpu: what it says, else what its type does."""
    resources = document.get("resources")
    if resources is not None:
        return {CPU: resources["cpuCores"], MEMORY: resources["memoryMb"], GPU: resources["gpu"]}
    return dict(zip((CPU, MEMORY, GPU), _SIZES.get(document["type"], _SMALL), strict=True))


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else str(value))[:200]
