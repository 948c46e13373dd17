"""Which events a subscription is told of beyond their type and plan: a CEL expression over the event as it is sent.

The one variable is ``event``, the CloudEvent with its payload, whether or not payloads are sent:
``event.type == "NODE_FAILED" && event.data.payload.error.type == "TIMEOUT"``. An expression that has no value for an
event, since it names what the event does not have, does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.expressions import ExpressionError, compile, evaluate_condition

VARIABLES = ("event",)


class EventFilter:
    """A compiled filter.

    Raises:
        ExpressionError: it cannot be read, or can never be true or false.
    """

    def __init__(self, source: str) -> None:
        self._condition = compile(source, VARIABLES)
        if not self._condition.could_be_boolean:
            raise ExpressionError("NOT_BOOLEAN", "A filter must be true or false.")

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Tell whether the subscription wants the event."""
        try:
            return evaluate_condition(self._condition, {"event": event})
        except ExpressionError:
            return False
