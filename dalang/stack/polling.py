"""Does a worker poll? Asked of Temporal itself, because a worker has no port; ``python -m dalang.stack.polling``.

That command is the health check of a worker's container: exit code 0 when a worker of this host polls.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from dalang.settings import Settings


async def polls(settings: Settings, is_ours: Callable[[str], bool]) -> bool:
    """Whether a worker whose identity (``<pid>@<host>``, the SDK's default) is ours polls the task queue for runs.

    Raises :class:`dalang.temporal.TemporalUnavailable` when Temporal does not answer.
    """
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    from dalang.temporal import connect

    client = await connect(settings, timeout_seconds=5)
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=settings.temporal_namespace,
            task_queue=TaskQueue(name=settings.task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    return any(is_ours(poller.identity) for poller in answer.pollers)


if __name__ == "__main__":
    import asyncio
    import sys

    host = socket.gethostname()
    sys.exit(not asyncio.run(polls(Settings.load(), lambda identity: identity.endswith(f"@{host}"))))
