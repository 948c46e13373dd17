"""Old runs are deleted by a policy, a few at a time, by one worker at a time; what proves them stays.

A run goes, with everything that is its own, when it ended longer ago than its tenant keeps runs, and never before
Temporal has forgotten it. Its head, signature and number of events stay, so that anchors still hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from dalang.artifacts import Artifacts
from dalang.store.blobs import delete_unused_blobs
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.references import delete_unreferenced_bodies
from dalang.store.retention import Old, delete_finished_runs, old_runs
from dalang.store.runs import tenants_with_runs

AT_ONCE = 100
"""Runs, bodies or payloads deleted in one transaction."""
MARGIN = timedelta(hours=1)
"""Longer than Temporal says, since its clock is not ours."""
LOOK_SECONDS = 600.0
_LOCK = "dalang retention"

logger = logging.getLogger("dalang.retention")


@dataclass(frozen=True)
class Policy:
    """For how long runs that have ended are kept: in days, 0 for ever; ``tenants`` have their own."""

    days: float = 0
    tenants: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, days: float, tenants: Iterable[str]) -> Policy:
        """Return the policy of the settings: of some tenants as ``tenant=days``."""
        pairs = (one.rpartition("=") for one in tenants)
        return cls(days, {tenant_id: float(of) for tenant_id, _, of in pairs})

    def of(self, tenant_id: str) -> float:
        """Return the days of a tenant."""
        return self.tenants.get(tenant_id, self.days)

    @property
    def is_on(self) -> bool:
        """Whether anything is ever deleted."""
        return self.days > 0 or any(days > 0 for days in self.tenants.values())


class Retention:
    """Deletes what is older than the policy says."""

    def __init__(
        self, engine: AsyncEngine, policy: Policy, *, artifacts: Artifacts | None = None, client: Client | None = None
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._artifacts = artifacts
        self._client = client

    async def delete_for_ever(self) -> None:
        """Delete what is due until cancelled; a database that is away is waited for."""
        while self._policy.is_on:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.step()
            except Exception as error:
                if not is_connection_error(error):
                    logger.exception("deleting old runs failed")

    async def due(self, now: datetime | None = None) -> list[Old]:
        """Tell what would be deleted now, by tenant."""
        least = await self._forgotten_after()
        found = []
        async with system_transaction(self._engine) as conn:
            for tenant_id in await tenants_with_runs(conn):
                days = self._policy.of(tenant_id)
                if days > 0:
                    before = (now or datetime.now(UTC)) - max(timedelta(days=days), least)
                    found.append(await old_runs(conn, tenant_id, before))
        return [one for one in found if one.runs]

    async def step(self, now: datetime | None = None) -> dict[str, int]:
        """Delete what is due; return how many runs of whom. Nothing while another process is at it."""
        gone: dict[str, int] = {}
        for old in await self.due(now):
            deleted = AT_ONCE
            while deleted:
                async with system_transaction(self._engine) as conn:
                    if not await _is_ours(conn):
                        return gone
                    deleted = await delete_finished_runs(conn, old.before, tenant_id=old.tenant_id, limit=AT_ONCE)
                gone[old.tenant_id] = gone.get(old.tenant_id, 0) + deleted
            if self._artifacts is not None:
                await self._artifacts.delete_unused(old.tenant_id, old.before)
            logger.info("%d runs of tenant %s were deleted", gone.get(old.tenant_id, 0), old.tenant_id)
        await self._delete_leftovers()
        return gone

    async def _delete_leftovers(self) -> None:
        """Delete large bodies that no run refers to any more, and payloads that no history can."""
        seconds = (await self._forgotten_after()).total_seconds()
        deleted = AT_ONCE
        while deleted:
            async with system_transaction(self._engine) as conn:
                if not await _is_ours(conn):
                    return
                deleted = await delete_unreferenced_bodies(conn, MARGIN.total_seconds(), limit=AT_ONCE)
                if self._client is not None:
                    deleted += await delete_unused_blobs(conn, seconds, limit=AT_ONCE)

    async def _forgotten_after(self) -> timedelta:
        """Return how long Temporal knows a run that has ended: a flush of a deleted one would be refused."""
        if self._client is None:
            return MARGIN
        request = DescribeNamespaceRequest(namespace=self._client.namespace)
        answer = await self._client.workflow_service.describe_namespace(request)
        return answer.config.workflow_execution_retention_ttl.ToTimedelta() + MARGIN


async def _is_ours(conn: AsyncConnection) -> bool:
    """Tell whether nobody else deletes; if so, nobody will until this transaction ends."""
    lock = func.pg_try_advisory_xact_lock(func.hashtextextended(_LOCK, 0))
    return bool((await conn.execute(select(lock))).scalar_one())
