"""Subscriptions and publishers for tests, over a store without Temporal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.publishing.publisher import Publisher
from dalang.publishing.target import Target
from dalang.publishing.webhooks import Webhooks
from dalang.store.engine import system_transaction, transaction
from dalang.store.publications import open_feed
from dalang.store.runs import Run
from dalang.store.subscriptions import (
    Progress,
    Subscription,
    Wanted,
    create_subscription,
    get_subscription,
    progress_of,
)
from dalang.webhook_signatures import new_secret
from dalang.wire import Head
from tests.harness import PATIENCE
from tests.store.world import TENANT, World, fact

SOURCE = "/dalang/test"


class Site:
    """A store, subscriptions, and publishers beside each other."""

    def __init__(self, engine: AsyncEngine, url: str) -> None:
        self.engine, self.url = engine, url
        self.world = World(engine)
        self.secret = new_secret()

    async def subscribe(self, url: str = "", tenant: str = TENANT, **wanted: Any) -> Subscription:
        """Make a subscription; failures are repeated after some milliseconds."""
        since = wanted.pop("since", None)
        made = Wanted(
            **{
                "name": f"one-{url}",
                "kind": "webhook",
                "target": {"url": url},
                "initial_delay_ms": 20,
                "max_delay_ms": 100,
                **wanted,
            }
        )
        async with transaction(self.engine, tenant) as conn:
            return await create_subscription(conn, tenant, made, "test", since=since, secret=self.secret)

    async def again(self, subscription: Subscription) -> Subscription:
        async with transaction(self.engine, subscription.tenant_id) as conn:
            return await get_subscription(conn, subscription.tenant_id, subscription.subscription_id)

    async def progress(self, subscription: Subscription) -> Progress:
        async with transaction(self.engine, subscription.tenant_id) as conn:
            return (await progress_of(conn, [subscription.subscription_id]))[subscription.subscription_id]

    async def run(self, count: int = 4, **changes: Any) -> tuple[Run, Head]:
        """A run with so many events."""
        run = await self.world.run(**changes)
        return run, await self.more(run, count)

    async def more(self, run: Run, count: int, head: Head | None = None) -> Head:
        """So many more events of a run."""
        head = head or {"epoch": 0, "seq": 0, "hash": ""}
        first = head["seq"] + 1
        facts = [
            fact(seq, "PLAN_STARTED" if seq == 1 else "NODE_STARTED", None if seq == 1 else "a", {"inputs": {"n": seq}})
            for seq in range(first, first + count)
        ]
        return await self.world.flush(run, facts, head)

    def publisher(self, targets: Mapping[str, Target] | None = None, **more: Any) -> Publisher:
        chosen = targets if targets is not None else {"webhook": Webhooks(lambda: httpx.AsyncClient(trust_env=False))}
        return Publisher(self.engine, self.url, chosen, SOURCE, **more)

    @asynccontextmanager
    async def publishing(
        self, targets: Mapping[str, Target] | None = None, **more: Any
    ) -> AsyncIterator[asyncio.Task[None]]:
        """A publisher beside the block."""
        task = asyncio.create_task(self.publisher(targets, **more).publish_for_ever())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settled(self, subscription: Subscription, seconds: float = PATIENCE) -> Progress:
        """Wait until all events were marked, and nothing waits for a subscription."""
        async with asyncio.timeout(seconds):
            while True:
                async with system_transaction(self.engine) as conn:
                    is_open = await open_feed(conn)
                found = await self.progress(subscription)
                if not is_open and not found.waiting_runs:
                    return found
                await asyncio.sleep(0.03)


def numbers(received: list[Any], run: Run) -> list[int]:
    """The seqs of a run, in the order they came."""
    return [one.number[2] for one in received if one.number[0] == str(run.run_id)]
