"""Going on with a conversation where another attempt left it: what was asked, answered and done is kept as checkpoint.

A model that works with tools is asked several times. An attempt that ends in between - its worker was killed, the
provider limits rates, a pause interrupts it - leaves the conversation so far, and the next one goes on from there: what
was answered is not paid for twice, and tools that have done their work are not called again. The question itself is not
kept; it is in the node's inputs, perhaps with secrets. Imports the library, so it is imported late.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter
from pydantic_ai import ModelMessage, ModelMessagesTypeAdapter, ModelRequest, ModelResponse
from pydantic_ai.usage import RunUsage

from dalang.activities.llm.tools import Toolbox
from dalang.llm_reasons import Reason
from dalang.nodes import InvalidInput, NodeContext, NodeFailure

FORGOTTEN = frozenset(Reason) - {
    Reason.RATE_LIMIT,
    Reason.UNAVAILABLE,
    Reason.PROVIDER_ERROR,
    Reason.UNREACHABLE,
    Reason.TIMEOUT,
    Reason.QUOTA,
    Reason.AUTHENTICATION,
}
"""After these the next attempt begins anew: it is the conversation that led there."""
logger = logging.getLogger("dalang.activities.llm")
_USAGE = TypeAdapter(RunUsage)


class Memo:
    """The conversation of one node; one that began with other inputs is not gone on with."""

    def __init__(self, ctx: NodeContext, prompt: str, toolbox: Toolbox) -> None:
        self._ctx = ctx
        self._digest = toolbox.about
        self._prompt = prompt
        self._toolbox = toolbox

    def restored(self) -> tuple[list[ModelMessage], RunUsage] | None:
        """Return the messages so far and what they used, or None where there is nothing to go on from."""
        left = self._ctx.restored
        if not isinstance(left, Mapping) or left.get("about") != self._digest:
            return None
        try:
            messages = ModelMessagesTypeAdapter.validate_python(left["messages"])
            usage = _USAGE.validate_python(left["usage"])
            self._toolbox.go_on_from(left["calls"])
        except (KeyError, ValueError, TypeError):
            logger.warning("what another attempt of node %s left cannot be read", self._ctx.node_id, exc_info=True)
            return None
        return [ModelRequest.user_text_prompt(self._prompt), *messages], usage

    def keep(self, messages: Sequence[ModelMessage], usage: RunUsage) -> None:
        """Leave the conversation, whose first message is the question."""
        later = list(messages[1:])
        if not any(isinstance(message, ModelResponse) for message in later):
            return
        state = {
            "about": self._digest,
            "messages": ModelMessagesTypeAdapter.dump_python(later, mode="json"),
            "usage": _USAGE.dump_python(usage, mode="json"),
            "calls": [dict(call) for call in self._toolbox.calls],
        }
        try:
            self._ctx.checkpoint(state)
        except InvalidInput as error:  # too large, or no JSON: the next attempt begins anew
            logger.info("the conversation of node %s is not kept: %s", self._ctx.node_id, error)

    def forget_after(self, failure: NodeFailure) -> None:
        """Have the next attempt begin anew if the conversation is what failed."""
        if failure.details.get("reason") in FORGOTTEN:
            self._ctx.checkpoint(None)
