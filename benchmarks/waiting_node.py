"""A node that waits, as one does that asks somebody else: for ``scale_out.py``."""

from __future__ import annotations

import asyncio

from dalang.nodes import node

SECONDS = 1.0


@node("wait-a-moment")
async def wait_a_moment() -> dict[str, object]:
    """Wait for a second."""
    await asyncio.sleep(SECONDS)
    return {}
