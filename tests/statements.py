"""One cache of compiled SQL statements for all engines of a test process.

SQLAlchemy compiles a statement once per engine. A process of the product has one or two engines; a process of tests
makes hundreds that differ in nothing but the database, and would spend a fifth of its time on compiling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import LRUCache

from dalang.store import engine


class _Shared(LRUCache[Any, Any]):
    """Forgets whose dialect a statement was compiled for: all engines of Dalang have the same, made the same way."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key[1:], value)


@contextmanager
def compiled_once() -> Iterator[None]:
    """Share what is compiled among the engines that are made within."""
    shared = _Shared(5_000)

    def create(*arguments: Any, **options: Any) -> AsyncEngine:
        made = create_async_engine(*arguments, **options)
        made.sync_engine._compiled_cache = shared
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "create_async_engine", create)
        yield
