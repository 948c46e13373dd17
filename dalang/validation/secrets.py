"""References to secrets: that they can be read, and that something resolves them."""

from __future__ import annotations

from typing import Any

from dalang.program import WAITING_TYPES
from dalang.secret_references import BadReference, patterns_of, texts_with_scheme
from dalang.validation.report import Problems, Steps
from dalang.validation.structure import Draft

UNRESOLVED_TYPES = WAITING_TYPES
"""Node types without a handler, whose inputs are recorded as they are."""


def check_secrets(draft: Draft, problems: Problems) -> None:
    """Check the inputs of every node, of its compensation, and of the planner."""
    planner = draft.head.planner
    if planner is not None:
        _check(None, ("planner", "inputs"), planner.type, planner.inputs, problems)
    for node in draft.nodes:
        if node.model is None:
            continue
        _check(node.id, (*node.steps, "inputs"), node.model.type, node.model.inputs, problems)
        undo = node.model.compensation
        if undo is not None:
            _check(node.id, (*node.steps, "compensation", "inputs"), undo.type, undo.inputs, problems)


def _check(node: str | None, place: Steps, kind: str, inputs: Any, problems: Problems) -> None:
    for steps, text in texts_with_scheme(inputs):
        try:
            names = patterns_of(text)
        except BadReference as error:
            problems.error("BAD_SECRET", (*place, *steps), f"A secret cannot be referred to so: {error}.", node)
            continue
        if kind in UNRESOLVED_TYPES and names:
            message = (
                f"A node of type {kind} has no handler that could be given a secret; write the reference where it is "
                "used."
            )
            problems.error("BAD_SECRET", (*place, *steps), message, node)
