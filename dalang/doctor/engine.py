"""What the doctor asks Temporal: namespace, search attributes, retention, who polls the task queue, what waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    DescribeWorkerDeploymentRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from dalang.doctor.findings import FAIL, OK, WARN, Finding, by_limits
from dalang.settings import Settings
from dalang.temporal import SEARCH_ATTRIBUTES

ASK = timedelta(seconds=5)
POLL_AGE = timedelta(minutes=2)
SHORT_RETENTION = timedelta(days=3)
WAITING_SECONDS = (10.0, 300.0)
KINDS = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)


async def examine_temporal(client: Client, settings: Settings) -> Sequence[Finding]:
    """Look at the namespace and the task queue."""
    system = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=ASK)
    found = [Finding("temporal", OK, f"Temporal {system.server_version} at {settings.temporal_address}")]
    found.append(await _retention(client))
    found.append(await _search_attributes(client))
    found += await _workers(client, settings)
    if settings.worker_deployment:
        found.append(await _deployment(client, settings))
    return found


async def _retention(client: Client) -> Finding:
    request = DescribeNamespaceRequest(namespace=client.namespace)
    namespace = await client.workflow_service.describe_namespace(request, timeout=ASK)
    kept = namespace.config.workflow_execution_retention_ttl.ToTimedelta()
    what = f"namespace {client.namespace} keeps ended workflows for {kept.total_seconds() / 86400:g} days"
    if kept >= SHORT_RETENTION:
        return Finding("namespace", OK, what)
    do = f"`temporal operator namespace update -n {client.namespace} --retention 7d`: what is gone cannot be compared."
    return Finding("namespace", WARN, what, do)


async def _search_attributes(client: Client) -> Finding:
    name, wanted = "search", [key.name for key in SEARCH_ATTRIBUTES]
    try:
        request = ListSearchAttributesRequest(namespace=client.namespace)
        known = (await client.operator_service.list_search_attributes(request, timeout=ASK)).custom_attributes
    except RPCError as error:
        return Finding(name, WARN, f"search attributes cannot be listed: {error.message}", "Look in Temporal's own UI.")
    missing = [one for one in wanted if one not in known]
    if not missing:
        return Finding(name, OK, f"all {len(wanted)} search attributes are registered")
    do = "A worker registers them when it starts; where it may not (Temporal Cloud), see docs/temporal-cloud.md."
    return Finding(name, WARN, f"not registered: {', '.join(missing)}", do)


async def _workers(client: Client, settings: Settings) -> Sequence[Finding]:
    answers = [await _queue(client, settings.task_queue, kind) for kind in KINDS]
    since = datetime.now(UTC) - POLL_AGE
    polling = [
        {one.identity for one in answer.pollers if one.last_access_time.ToDatetime(UTC) >= since} for answer in answers
    ]
    if not all(polling):
        what = f"nobody polls task queue {settings.task_queue}"
        return [Finding("workers", FAIL, what, "Start `dalang worker`; is its DALANG_TASK_QUEUE the same?")]
    both = polling[0] | polling[1]
    found = [Finding("workers", OK, f"{len(both)} on task queue {settings.task_queue}")]
    ages = [answer.stats.approximate_backlog_age.ToTimedelta().total_seconds() for answer in answers]
    count = sum(answer.stats.approximate_backlog_count for answer in answers)
    what = f"{count} tasks wait for a worker, the oldest for {max(ages):.0f} s"
    return [*found, by_limits("backlog", max(ages), *WAITING_SECONDS, what, "Start more workers.")]


async def _queue(client: Client, name: str, kind: TaskQueueType.ValueType) -> DescribeTaskQueueResponse:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=name), task_queue_type=kind, report_stats=True
    )
    return await client.workflow_service.describe_task_queue(request, timeout=ASK)


async def _deployment(client: Client, settings: Settings) -> Finding:
    name = settings.worker_deployment
    request = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=name)
    do = f"`temporal worker deployment set-current-version --deployment-name {name} --build-id BUILD`"
    try:
        answer = await client.workflow_service.describe_worker_deployment(request, timeout=ASK)
    except RPCError as error:
        return Finding("deployment", WARN, f"Temporal knows no deployment {name}: {error.message}", do)
    current = answer.worker_deployment_info.routing_config.current_deployment_version.build_id
    if not current:
        return Finding("deployment", FAIL, f"no build of {name} is current: runs wait", do)
    return Finding("deployment", OK, f"build {current} of {name} is current")
