"""Does a worker poll? Asked of Temporal itself; ``python -m dalang.stack.polling``.

That command is a health check for workers that have no port for it (``vitals.py``): exit code 0 when a worker of this
host polls.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

from dalang.settings import Settings

if TYPE_CHECKING:
    from temporalio.client import Client


def is_worker(identity: str, host: str, pid: int | None = None) -> bool:
    """Whether a poller's identity speaks of ``host`` and of ``pid`` there (None: of any process).

    Both ``<pid>@<host>``, the SDK's default, and ``<host>-<pid>`` do.
    """
    if host not in identity:
        return False
    return pid is None or re.search(rf"(?<!\d){pid}(?!\d)", identity.replace(host, "", 1)) is not None


async def polls(client: Client, settings: Settings, pid: int | None = None) -> bool:
    """Whether a worker of this host, or its process ``pid``, polls the task queue for runs."""
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=settings.temporal_namespace,
            task_queue=TaskQueue(name=settings.task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    host = socket.gethostname()
    return any(is_worker(poller.identity, host, pid) for poller in answer.pollers)


async def _polls(settings: Settings) -> bool:
    from dalang.temporal import connect

    return await polls(await connect(settings, timeout_seconds=5), settings)


if __name__ == "__main__":
    import asyncio
    import sys

    sys.exit(not asyncio.run(_polls(Settings.load())))
