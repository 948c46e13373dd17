"""The span of an agent's work, by OpenTelemetry's conventions for generative AI.

Requests to language models have theirs from the library that makes them (``llm/conversation.py``).
"""

from __future__ import annotations

from typing import Any

from dalang import tracing
from dalang.activities.execution import Handler
from dalang.nodes import NodeContext

PROVIDER = "dalang"


def as_agent(name: str | None, handler: Handler) -> Handler:
    """Return a handler whose work is traced as that of an agent; untraced it is the same handler."""
    if tracing.tracer() is None:
        return handler

    async def traced(ctx: NodeContext) -> Any:
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.agent.name": name or ctx.name,
            "gen_ai.conversation.id": ctx.run_id,
        }
        with tracing.span(f"invoke_agent {name or ctx.name}", "client", attributes) as span:
            try:
                return await handler(ctx)
            finally:
                tokens = ctx._used.get("tokens")
                if tokens:  # agents tell one number, not how many of them were asked and how many answered
                    span.set_attribute("dalang.usage.tokens", tokens)

    return traced
