"""Signs of life of agents that do not give any themselves: those on task queues, and the functions of workers.

Temporal knows who takes work from a task queue: as long as somebody does, the agent there is heard of. The functions
registered with ``@agent`` are heard of by their worker, which also registers them, if that is wanted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from dalang.leasing import Leasing
from dalang.nodes import Registration, registry
from dalang.store.admission_tables import SHARED
from dalang.store.agents import AgentKind, NewAgent, heartbeat, queues_of_agents, register_agent
from dalang.store.engine import is_connection_error, system_transaction

LOOK_SECONDS = 10.0
HEARD_SECONDS = 75
"""Whoever takes work asks for it anew once a minute."""
LOCAL_HEARTBEAT_SECONDS = 30
RPC_SECONDS = timedelta(seconds=5)

logger = logging.getLogger("dalang.presence")


class Presence:
    """Looks who is there. Several processes may do it side by side.

    ``places`` above 0: the functions of this process are registered, each with so many places.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        client: Client,
        leasing: Leasing,
        places: int,
        functions: Iterable[Registration] | None = None,
    ) -> None:
        self._engine = engine
        self._client = client
        self._leasing = leasing
        self._places = places
        self._functions = tuple(registry.agents if functions is None else functions) if places else ()

    async def register(self) -> None:
        """Register the functions of this process."""
        for one in self._functions:
            new = NewAgent(
                tenant_id=SHARED,
                agent_id=one.name,
                kind=AgentKind.LOCAL,
                name=one.name,
                capabilities=dict.fromkeys(one.capabilities, 1.0),
                max_concurrent_tasks=self._places,
                registered_by="worker",
                labels={},
                endpoint={},
                heartbeat_seconds=LOCAL_HEARTBEAT_SECONDS,
            )
            async with system_transaction(self._engine) as conn:
                await register_agent(conn, new)
        if self._functions:
            await self._leasing.grant()

    async def watch(self) -> None:
        """Note who is there; somebody who comes back may get what waits for him."""
        heard: dict[str, list[str]] = {SHARED: [one.name for one in self._functions]}
        async with system_transaction(self._engine) as conn:
            agents = await queues_of_agents(conn)
        answers = {queue: await self._is_polled(queue) for queue in dict.fromkeys(one.queue for one in agents)}
        for one in agents:
            if answers[one.queue]:
                heard.setdefault(one.tenant_id, []).append(one.agent_id)
        back: list[str] = []
        for tenant_id, names in heard.items():
            if names:
                async with system_transaction(self._engine) as conn:
                    back += await heartbeat(conn, tenant_id, names)
        if back:
            logger.info("back again: %s", ", ".join(back))
            await self._leasing.grant()

    async def _is_polled(self, queue: str) -> bool:
        request = DescribeTaskQueueRequest(
            namespace=self._client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )
        found = await self._client.workflow_service.describe_task_queue(request, timeout=RPC_SECONDS)
        since = datetime.now(UTC) - timedelta(seconds=HEARD_SECONDS)
        return any(one.last_access_time.ToDatetime(UTC) >= since for one in found.pollers)

    async def watch_for_ever(self) -> None:
        """Register, then look every few seconds, until cancelled; what is away meanwhile is only logged."""
        registered = False
        while True:
            try:
                if not registered:
                    await self.register()
                    registered = True
                await self.watch()
            except RPCError as error:
                logger.warning("who is there on task queues is not known: %s", error.message)
            except Exception as error:
                if not is_connection_error(error):
                    logger.exception("looking who is there failed")
            await asyncio.sleep(LOOK_SECONDS)
