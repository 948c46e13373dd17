"""The field ``memory``: that the node could use what it is given."""

from __future__ import annotations

from dalang.plan import Node
from dalang.validation.report import Problems
from dalang.validation.structure import Draft, NodeAt

WITHOUT_MEMORY = frozenset(
    [
        "noop",
        "sleep",
        "timer",
        "event",
        "human",
        "plan",
        "map",
        "loop",
        "http",
        "mcp",
        "wasm",
        "container",
        "runtime-hub",
    ]
)
"""Node types that have no use for a memory: they wait, are made of nodes, or their inputs are all they get."""


def check_memory(draft: Draft, problems: Problems) -> None:
    """Check the memory of every node that has one."""
    for node in draft.nodes:
        if node.model is not None and node.model.memory is not None:
            _check(node, node.model, problems)


def _check(node: NodeAt, model: Node, problems: Problems) -> None:
    memory, steps = model.memory, (*node.steps, "memory")
    assert memory is not None
    if model.type in WITHOUT_MEMORY:
        message = f"A node of type {model.type} has no use for a memory; agents and functions of workers have."
        problems.error("WITHOUT_EFFECT", steps, message, node.id)
        return
    session = memory.session
    if memory.episodes == 0 and session is None:
        problems.error("WITHOUT_EFFECT", steps, "A memory without episodes and without a session is none.", node.id)
    if memory.query is not None and memory.episodes == 0:
        problems.error("WITHOUT_EFFECT", (*steps, "query"), "No episodes are looked up.", node.id)
    if session is None:
        return
    steps = (*steps, "session")
    if model.callback is not None:
        message = "A session ends with the node's activity, but a node with a callback ends later; one of both."
        problems.error("WITHOUT_EFFECT", steps, message, node.id)
    here, there = ("base", session.base is not None), ("workspace", session.workspace is not None)
    review = ("onConflict", session.on_conflict != "fail")
    for name, given in (here, review) if session.repository is None else (there,):
        if given:
            kind = "of the Cortex has no" if session.repository is None else "of a repository has no"
            problems.error("WITHOUT_EFFECT", (*steps, name), f"A session {kind} `{name}`.", node.id)
