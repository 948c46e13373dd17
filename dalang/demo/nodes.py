"""Demo functions for nodes of type ``python``: they fail, undo, or work for long, to see what becomes of that."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from dalang.nodes import NetworkError, NodeContext, ToolError, node

logger = logging.getLogger(__name__)


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


@node("demo-order")
async def demo_order(number: int) -> dict[str, Any]:
    """Look up an order by its number: what was ordered, and how many days late it is."""
    return {"number": number, "item": "lamp", "lateDays": number % 10}


@node("demo-charge")
async def demo_charge(ctx: NodeContext, card: str, seat: str = "") -> dict[str, Any]:
    """Charge a card: 0000 is declined, for good; the receipt names the key that would keep it from happening twice."""
    if card == "0000":
        raise ToolError("the card was declined", details={"card": card}, no_effect=True)
    return {"receipt": f"paid {seat}".strip(), "key": ctx.idempotency_key}


@node("demo-send")
async def demo_send(ctx: NodeContext, address: str) -> dict[str, Any]:
    """Send a parcel, which cannot be done to nowhere."""
    if address == "nowhere":
        raise ToolError("nobody lives there")
    return {"sent": address}


@node("demo-release")
async def demo_release(ctx: NodeContext, seat: str = "") -> dict[str, Any]:
    """Give a seat back; one that is free already is fine, too."""
    return {"released": seat}


@node("demo-refund")
async def demo_refund(ctx: NodeContext, receipt: str | None = None) -> dict[str, Any]:
    """Pay back what was charged: by its receipt or, where nobody heard of one, by the key it was charged under."""
    assert ctx.undoes is not None, "it is the compensation of demo-charge"
    return {"refunded": receipt or ctx.undoes.idempotency_key, "key": ctx.idempotency_key}


@node("demo-import")
async def demo_import(ctx: NodeContext, rows: int, batch: int = 10, seconds: float = 0.05) -> dict[str, Any]:
    """Import rows in batches, each of which takes a while; another attempt begins with the batch that is due."""
    done = ctx.restored["done"] if ctx.restored else 0
    begun = done
    if begun:
        logger.warning("goes on at row %d", begun)
    while done < rows:
        await asyncio.sleep(seconds)
        done = min(done + batch, rows)
        ctx.progress(f"{done} of {rows} rows", done / rows)
        await ctx.checkpoint({"done": done})
        logger.info("%d of %d rows", done, rows)
    return {"rows": rows, "here": rows - begun}


@node("demo-measure")
def demo_measure(ctx: NodeContext, days: int = 365) -> dict[str, Any]:
    """Write a table of measurements to a file: outputs are for numbers, files for what is large."""
    rows = "".join(f"{day},{(day * 37) % 101}\n" for day in range(1, days + 1))
    return {"table": ctx.artifacts.put(f"day,value\n{rows}", media_type="text/csv", name="measured.csv"), "rows": days}


@node("demo-summarize")
async def demo_summarize(ctx: NodeContext, table: str) -> dict[str, Any]:
    """Read such a table, and tell what is in it."""
    with await ctx.artifacts.open_async(table) as file:
        values = [int(line.partition(b",")[2]) for line in list(file)[1:]]
    return {"rows": len(values), "largest": max(values), "mean": round(sum(values) / len(values), 2)}
