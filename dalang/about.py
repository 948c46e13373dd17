"""What the work at hand is about - run, node, tenant, request - known to every log line and span without being passed.

.. code-block:: python

    with telling(run=run_id, node=node_id):
        logger.info("begun")  # and whatever else is logged within, in this task and in those it begins
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_told: ContextVar[dict[str, Any] | None] = ContextVar("dalang_about", default=None)


@contextmanager
def telling(**fields: Any) -> Iterator[dict[str, Any]]:
    """Add fields for the length of the block; those that are None are left out. The block is given all that is told."""
    told = {**(_told.get() or {}), **_known(fields)}
    token = _told.set(told)
    try:
        yield told
    finally:
        _told.reset(token)


def tell(**fields: Any) -> None:
    """Add fields to the block that this is called in, from now on; outside of any it does nothing."""
    told = _told.get()
    if told is not None:
        told.update(_known(fields))


def told() -> Mapping[str, Any]:
    """Return what is told here."""
    return _told.get() or {}


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
