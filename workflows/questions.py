"""From the error with which the activity of a handler ended that asks a person, to the event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import MAX_INTEGER
    from dalang.events import PersonAsked
    from dalang.human_task import checked_question
    from dalang.wire import ASKS_PERSON, Checkpoint


def is_question(cause: BaseException | None) -> bool:
    """Tell whether an activity ended with what can be asked a person; a worker of others may have sent anything."""
    return _question(cause) is not None


def person_asked(
    node_id: str, cause: BaseException | None, checkpoint: Checkpoint | None, notes: Mapping[str, Any]
) -> PersonAsked | None:
    """Return the event for a handler that asks a person, or None."""
    told = _question(cause)
    if told is None:
        return None
    attempts = told.get("attempts")
    made = attempts if type(attempts) is int and 0 <= attempts <= MAX_INTEGER else 0
    return PersonAsked(node_id, checked_question(told["question"]), made, checkpoint, notes)


def _question(cause: BaseException | None) -> Mapping[str, Any] | None:
    if not isinstance(cause, ApplicationError) or cause.type != ASKS_PERSON or not cause.details:
        return None
    told: Mapping[str, Any] = cause.details[0] if isinstance(cause.details[0], Mapping) else {}
    try:
        checked_question(told.get("question"))
    except ValueError:
        return None
    return told
