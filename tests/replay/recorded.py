"""What is recorded of a run, and short ways to write its plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dalang.signing import Keyring, key_id
from tests.engine.kit import Started


async def nothing(started: Started) -> None:
    """Let it run."""


@dataclass(frozen=True)
class Recorded:
    """A plan, what to send into its run, and the state it starts with."""

    plan: dict[str, Any]
    act: Callable[[Started], Awaitable[None]] = nothing
    inputs: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    below: str | None = None
    """A node below which a run is kept, too."""
    pools: dict[str, float] = field(default_factory=dict)
    """Pools that are made before it starts, and their sizes; the run's state names them as ``limits``."""
    delay: timedelta | None = None
    """So long its first task waits."""


def node(node_id: str, kind: str = "noop", **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": kind, **more}


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"sourceNodeId": source, "targetNodeId": target, **more}


def carried(kind: str, coordinate: str, **more: Any) -> dict[str, Any]:
    return {"descriptor": {"implementation": {"type": kind, "coordinate": coordinate, **more}}}


BEGINNING: dict[str, Any] = {
    "status": "PENDING",
    "seq": 0,
    "outputs": [],
    "errors": [],
    "result": None,
    "error": None,
    "ending": None,
    "reason": None,
    "closing": False,
    "toStop": [],
    "awaiting": [],
    "heldByFailure": False,
    "given": [],
    "generations": [],
    "overrides": [],
    "about": {"id": "second"},
}
"""What a seed's snapshot holds besides statuses and edges."""


RESOURCES = {"requirements": {"resources": {"memoryMb": 64}}}
FLAKY = {"retryPolicy": {"initialDelayMs": 10}}


UNDO = {"compensation": {"type": "t-value", "inputs": {"of": "${undoes.key}"}}}


SUB = {"nodes": [node("i", "t-value", inputs={"x": "${inputs.?x.orValue(0)}"})]}

INTERRUPT = {"operator": "ann", "mode": "interrupt"}


REVIEW = {"due": "1h", "reminder": "10m", "candidateGroup": "ops", "title": "Look at ${nodes.a.outputs.x}"}


ENDPOINT = {"failures": 1, "endpoint": "replay"}


JUDGED = {
    "nodes": [
        node("draft", "t-value", inputs={"words": 4}),
        node("judge", "t-judge", evaluator=True),
        node("publish", "t-value"),
    ],
    "edges": [edge("draft", "judge"), edge("judge", "publish")],
}


def needs(**pools: float) -> dict[str, Any]:
    return {"requirements": {"pools": pools}}


def wants(capability: str) -> dict[str, Any]:
    return {**FLAKY, "requirements": {"capabilities": [capability]}}


_SIGNS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
API_KEYS = Keyring({key_id(_SIGNS.public_key().public_bytes_raw()): _SIGNS.public_key()}, [_SIGNS])
LATER = 10**15
