"""``execution: local`` on nodes that cannot be run together with others."""

from __future__ import annotations

from dalang.local_execution import why_not_local
from dalang.plan import Execution
from dalang.validation.report import Problems
from dalang.validation.structure import Draft


def check_execution(draft: Draft, problems: Problems) -> None:
    """Refuse a node that says it is local and cannot be; what a plan says of all its nodes goes for those that can."""
    last = {id(node) for node in draft.nodes if node.model is not None and node.steps[0] == "finally"}
    for node in draft.nodes:
        if node.model is None or node.model.execution is not Execution.LOCAL:
            continue
        reason = "a `finally` node runs when all else has ended" if id(node) in last else None
        found = why_not_local(node.model)
        if reason is None and found is not None:
            reason = f"`{found[0]}`: {found[1]}"
        if reason is not None:
            message = f"The node cannot be `execution: local` ({reason}); leave it durable."
            problems.error("NOT_LOCAL", (*node.steps, "execution"), message, node.id)
