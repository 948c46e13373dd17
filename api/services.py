"""What the routes work with: one of each per app, made by ``app.create_app``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.api.a2a.pushing import Pusher
from dalang.api.auth import Tokens
from dalang.api.feed import EventFeed
from dalang.api.middleware import Metrics
from dalang.api.oidc.trusted import Trusted
from dalang.api.rates import Rates
from dalang.api.sessions import Sessions
from dalang.api.ui.run_progress import Answers, Standings
from dalang.api.ui.run_scenes import Scenes
from dalang.artifacts import Artifacts
from dalang.controls import Controls
from dalang.deliveries import Deliveries
from dalang.health import Health, database_checks, keys_check, publisher_check, round_check, temporal_checks
from dalang.launch import Launcher, TemporalLink
from dalang.leasing import Leasing
from dalang.provenance_near import NearProvenance
from dalang.provenance_reading import Provenances
from dalang.reaper import Reaper
from dalang.redriving import Redrives
from dalang.settings import Settings
from dalang.signing import Keyring
from dalang.store.admission_tables import SHARED
from dalang.store.assignments import ASSIGNED
from dalang.store.engine import create_engine, system_transaction, transaction
from dalang.store.flush_statements import CHANNEL
from dalang.store.listening import Listener
from dalang.store.plan_index import PlanIndexes
from dalang.system_log import SystemLog

DATABASE_SECONDS = 10.0
"""How long a request waits for a database that hangs, and for a free connection."""

FAILED_SIGN_INS_PER_SECOND = 0.5


class Services:
    """Database, Temporal, and what is remembered between requests."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.engine: AsyncEngine = create_engine(settings)
        self.temporal = TemporalLink(settings, self.engine)
        self.launcher = Launcher(settings, self.engine, self.temporal)
        self.controls = Controls(self.temporal, self.launcher)
        self.redrives = Redrives(self.engine, self.launcher)
        self.reaper = Reaper(self.temporal, self.engine, self.launcher, settings.temporal_namespace)
        self.deliveries = Deliveries(self.temporal, self.engine, settings.require_database_url())
        self.leasing = Leasing(self.engine)
        self.artifacts = Artifacts.of(self.engine, settings)
        self.trusted = Trusted.of(settings)
        self.tokens = Tokens(self.engine, rates=Rates(settings.api_requests_per_second), trusted=self.trusted)
        self.sessions = Sessions(self.engine, settings, Rates(settings.api_requests_per_second))
        self.failed_sign_ins = Rates(FAILED_SIGN_INS_PER_SECOND, message="Too many attempts; try again in a minute.")
        """By address; those that succeed are not counted."""
        self.audit_keys = Keyring.load(settings.audit_keys_path)
        self.system = SystemLog(self.engine, self.audit_keys)
        self.indexes = PlanIndexes()
        self.provenances, self.near = Provenances(self.launcher.prepared_in), NearProvenance()
        self.scenes, self.standings, self.answers = Scenes(), Standings(), Answers()
        self.listener = Listener(settings.require_database_url(), [CHANNEL, ASSIGNED])
        self.feed = EventFeed(self.listener)
        self.pusher = Pusher(self)
        self.health = Health(
            [
                *database_checks(self.engine),
                *temporal_checks(self.temporal.client, settings.task_queue),
                publisher_check(self.engine),
                round_check("reconciler", "It starts runs that a crash left PENDING: look at Temporal and PostgreSQL."),
                round_check("reaper", "It ends runs whose workflow is gone: look at Temporal and PostgreSQL."),
                keys_check(settings),
            ]
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the background work of the process going: the reconciler, the reaper and the listener."""
        tasks = [
            asyncio.create_task(self.launcher.reconcile_for_ever(), name="reconciler"),
            asyncio.create_task(self.reaper.reap_for_ever(), name="reaper"),
            asyncio.create_task(self.listener.listen(), name="listener"),
            asyncio.create_task(self.deliveries.deliver_for_ever(), name="deliveries"),
            asyncio.create_task(self.pusher.push_for_ever(), name="pusher"),
            asyncio.create_task(self.system.write_for_ever(), name="system events"),
            asyncio.create_task(self.launcher.notes.write_for_ever(), name="starts"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            await self.launcher.enforcer.close()
            self.leasing.close()
            await self.trusted.close()
            await self.engine.dispose()

    @asynccontextmanager
    async def transaction(
        self, tenant_id: str, *, seconds: float = DATABASE_SECONDS, snapshot: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """Open a transaction of ``tenant_id``; ``snapshot``: all its reads see one moment.

        Raises:
            TimeoutError: the database did not answer in time.
        """
        engine = self.engine.execution_options(isolation_level="REPEATABLE READ") if snapshot else self.engine
        async with asyncio.timeout(seconds), transaction(engine, tenant_id) as conn:
            yield conn

    @asynccontextmanager
    async def owners_transaction(self, owner: str) -> AsyncIterator[AsyncConnection]:
        """Open a transaction to change what is a tenant's, or with SHARED what is everybody's; for who may do so."""
        made = system_transaction(self.engine) if owner == SHARED else transaction(self.engine, owner)
        async with asyncio.timeout(DATABASE_SECONDS), made as conn:
            yield conn

    @asynccontextmanager
    async def bearers_transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction for who has the secret of the one thing it is about, of whichever tenant that is."""
        async with asyncio.timeout(DATABASE_SECONDS), system_transaction(self.engine) as conn:
            yield conn


def services(request: Request) -> Services:
    """Return the services of the request's app."""
    found: Services = request.app.state.services
    return found


Service = Annotated[Services, Depends(services)]
