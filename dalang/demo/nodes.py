"""Demo functions for nodes of type ``python``: ones that fail, to see retries and error edges at work."""

from __future__ import annotations

from typing import Any

from dalang.nodes import NetworkError, NodeContext, ToolError, node


@node("demo-flaky")
async def demo_flaky(ctx: NodeContext, failures: int = 1) -> dict[str, Any]:
    """Fail with NETWORK_ERROR on the first ``failures`` attempts, then succeed."""
    if ctx.attempt <= failures:
        raise NetworkError(f"attempt {ctx.attempt} finds nobody at home")
    return {"attempts": ctx.attempt}


@node("demo-fail")
async def demo_fail(ctx: NodeContext, message: str = "this tool always refuses") -> dict[str, Any]:
    """Fail with TOOL_ERROR, which is not repeated."""
    raise ToolError(message, details={"node": ctx.node_id})


@node("demo-charge")
async def demo_charge(ctx: NodeContext, card: str, seat: str = "") -> dict[str, Any]:
    """Charge a card: 0000 is declined, for good; the receipt names the key that would keep it from happening twice."""
    if card == "0000":
        raise ToolError("the card was declined", details={"card": card})
    return {"receipt": f"paid {seat}".strip(), "key": ctx.idempotency_key}
