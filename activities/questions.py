"""A handler's question to a person on its way to the run: checked here, where the handler can be told."""

from __future__ import annotations

from typing import Any

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from dalang.activities.callbacks import hidden
from dalang.human_task import checked_question
from dalang.nodes import AskPerson, InvalidInput, NodeContext, NodeFailure
from dalang.validation.input_schema import schema_problems
from dalang.wire import ASKS_PERSON, Checkpoint, Question


def question_of(asked: AskPerson, ctx: NodeContext) -> Question:
    """Return what a handler asks.

    Raises:
        NodeFailure: it cannot be asked so: no JSON, too large, a form that is no schema, or out of a compensation.
    """
    if ctx.undoes is not None:
        raise NodeFailure(f"a compensation cannot ask a person; it wanted to know: {asked}", retryable=False)
    told = {
        "text": asked.question,
        "title": asked.title,
        "form": asked.form,
        "context": asked.context,
        "assignee": asked.assignee,
        "group": asked.group,
        "dueMs": None if asked.due is None else round(asked.due * 1000),
    }
    given = ctx._mask(hidden({name: value for name, value in told.items() if value is not None}, ctx.callback_url))
    given = ctx._mask(given)
    try:
        question = checked_question(given)
    except ValueError as error:
        raise InvalidInput(f"the handler asks a person what cannot be asked: {error}") from None
    wrong = schema_problems(question["form"], "The values of a form") if "form" in question else []
    if wrong:
        steps, message = wrong[0]
        raise InvalidInput(f"the form of a question, at /{'/'.join(map(str, steps))}: {message}")
    return question


def to_temporal(
    question: Question, attempts: int, checkpoint: Checkpoint | None, used: dict[str, Any]
) -> ApplicationError:
    """Return the error with which the activity of a handler ends that asks; ``attempts`` were made before this one."""
    return ApplicationError(
        "it asks a person",
        {"question": question, "attempts": attempts},
        *([checkpoint, dict(used)] if used else [] if checkpoint is None else [checkpoint]),
        type=ASKS_PERSON,
        non_retryable=True,
        category=ApplicationErrorCategory.BENIGN,
    )
