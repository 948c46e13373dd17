"""Fixtures of publishing: a store, and receivers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dalang.store.engine import create_engine
from tests.harness import Database
from tests.publishing.kit import Site
from tests.publishing.receiver import Answer, Receiver


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    engine = create_engine(database.url, pool_size=20)
    yield Site(engine, database.url)
    await engine.dispose()


@pytest.fixture
async def receiving() -> AsyncIterator[Callable[..., Awaitable[Receiver]]]:
    """``await receiving(answer)`` starts a receiver."""
    made: list[Receiver] = []

    async def start(answer: Answer | None = None) -> Receiver:
        made.append(await Receiver(answer).start())
        return made[-1]

    yield start
    for one in made:
        await one.stop()
