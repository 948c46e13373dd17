"""The operations of A2A on our runs: what the SDK's dispatchers call, for both bindings and both versions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC
from typing import Any
from uuid import UUID

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTaskPushNotificationConfigsResponse,
    ListTasksRequest,
    ListTasksResponse,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import (
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from a2a.utils.proto_utils import validate_proto_required_fields

from dalang.api.a2a import card, configs, sending
from dalang.api.a2a.errors import answering, streaming
from dalang.api.a2a.inputs import invalid
from dalang.api.a2a.reading import MAX_HISTORY, Reading
from dalang.api.a2a.tasks import INTERRUPTED, statuses_of
from dalang.api.a2a.updates import Update
from dalang.api.auth import DECIDERS, OPERATORS, Principal, require
from dalang.api.problems import Forbidden
from dalang.errors import Conflict
from dalang.statuses import RUN_ENDS
from dalang.store.a2a import list_skills, list_tasks, mark_answered

MAX_SKILLS = 500
MAX_PAGE = 100
PAGE = 50
CANCEL_SECONDS = 3.0
"""How long a cancel is waited for, so that its answer is mostly the end."""
Event = Task | Update


class Agent(RequestHandler):
    """Dalang as an A2A agent. It remembers nothing: what is asked for is looked up, what is said is stored."""

    @answering
    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Task:
        """Start a run, or decide a human task of one; wait until it ends or asks, unless told not to."""
        who, reading = _caller(params, context)
        run_id, decided = await _sent(params, who, reading, context)
        configuration = params.configuration
        if not configuration.return_immediately:
            await reading.settled(run_id, decided, context.state["request"])
        return await reading.task(run_id, _history(configuration), modes=configuration.accepted_output_modes)

    @streaming
    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """As a message that is sent, and tell what happens until the run ends or asks."""
        who, reading = _caller(params, context)
        reading.it.feed.require_room()
        run_id, _ = await _sent(params, who, reading, context)
        configuration = params.configuration
        async for one in reading.stream(run_id, _history(configuration), modes=configuration.accepted_output_modes):
            yield one
            if not isinstance(one, Task) and _is_question(one):
                return

    @answering
    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task:
        """Read a run."""
        _, reading = _caller(params, context)
        return await reading.task(_run_id(params.id), _history(params))

    @answering
    async def on_list_tasks(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        """List runs, the one that changed last first."""
        who, reading = _caller(params, context)
        limit = params.page_size if params.HasField("page_size") else PAGE
        if not 1 <= limit <= MAX_PAGE:
            raise invalid(f"A page has 1 to {MAX_PAGE} tasks.", "pageSize")
        after = params.status_timestamp_after if params.HasField("status_timestamp_after") else None
        async with reading.it.transaction(who.tenant_id, seconds=30) as conn:
            page = await list_tasks(
                conn,
                who.tenant_id,
                context_id=params.context_id or None,
                statuses=statuses_of(params.status) if params.status else (),
                updated_after=None if after is None else after.ToDatetime(UTC),
                outputs=params.include_artifacts,
                limit=limit,
                cursor=params.page_token or None,
            )
            history = _history(params, default=0)
            tasks = await reading.tasks(conn, page.items, history, artifacts=params.include_artifacts)
        # One status of runs is two states: that it asks for an authorization stands in its plan.
        shown = [one for one in tasks if not params.status or one.status.state == params.status]
        return ListTasksResponse(
            tasks=shown, next_page_token=page.cursor or "", page_size=len(shown), total_size=page.total
        )

    @answering
    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task:
        """Ask a run to end; what it did is undone where its plan says how."""
        who, reading = _caller(params, context)
        require(who, OPERATORS)
        run = await reading.run(_run_id(params.id))
        if run.status in RUN_ENDS:
            raise TaskNotCancelableError(message=f"The run is {run.status}.")
        async with reading.it.transaction(who.tenant_id) as conn:
            await mark_answered(conn, who.tenant_id, run.run_id)
        try:
            await reading.it.controls.send(run, "cancel", who.subject, "cancelled over A2A")
        except Conflict as error:
            raise TaskNotCancelableError(message=str(error)) from error
        await reading.ended(run.run_id, CANCEL_SECONDS)
        return await reading.task(run.run_id, MAX_HISTORY)

    @streaming
    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """Tell what happens in a run until it ends."""
        _, reading = _caller(params, context)
        reading.it.feed.require_room()
        run = await reading.run(_run_id(params.id))
        if run.status in RUN_ENDS:
            raise UnsupportedOperationError(message=f"The run is {run.status}; nothing follows.")
        async for one in reading.stream(run.run_id, MAX_HISTORY):
            yield one

    @answering
    async def on_get_extended_agent_card(
        self, params: GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> AgentCard:
        """Return the card with the plans of the caller's tenant."""
        who, reading = _caller(params, context)
        async with reading.it.transaction(who.tenant_id) as conn:
            skills = await list_skills(conn, who.tenant_id, limit=MAX_SKILLS)
        return card.card(reading.it.settings.public_url, card.published(skills), who.tenant_id)

    @answering
    async def on_create_task_push_notification_config(
        self, params: TaskPushNotificationConfig, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """Have somebody told of a run from now on."""
        who, reading = _caller(params, context)
        require(who, OPERATORS)
        return await configs.put(params, _run_id(params.task_id), who, reading)

    @answering
    async def on_get_task_push_notification_config(
        self, params: GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """Read who is told, without what convinces him."""
        who, reading = _caller(params, context)
        return await configs.get(_run_id(params.task_id), params.id, who, reading)

    @answering
    async def on_list_task_push_notification_configs(
        self, params: ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> ListTaskPushNotificationConfigsResponse:
        """List who is told of a run; they are so few that there are no pages."""
        who, reading = _caller(params, context)
        found = await configs.all_of(_run_id(params.task_id), who, reading)
        return ListTaskPushNotificationConfigsResponse(configs=found)

    @answering
    async def on_delete_task_push_notification_config(
        self, params: DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        """Tell somebody nothing more."""
        who, reading = _caller(params, context)
        require(who, OPERATORS)
        await configs.delete(_run_id(params.task_id), params.id, who, reading)


async def _sent(
    params: SendMessageRequest, who: Principal, reading: Reading, context: ServerCallContext
) -> tuple[UUID, frozenset[UUID]]:
    """Take a message; return the run that it is about, and the human tasks that it has ended."""
    validate_proto_required_fields(params)
    wanted = params.configuration.task_push_notification_config
    told = params.configuration.HasField("task_push_notification_config")
    if told:
        require(who, OPERATORS)
        configs.checked(wanted, reading)
    if params.message.task_id:
        require(who, DECIDERS)
        run_id = _run_id(params.message.task_id)
        if told:
            await configs.put(wanted, run_id, who, reading)
        return await sending.answer(params.message, run_id, who, reading)
    require(who, OPERATORS)
    key = context.state["request"].headers.get("idempotency-key")
    run_id = await sending.start(params, who, reading.it, key)
    if told:
        await configs.put(wanted, run_id, who, reading, from_start=True)
    return run_id, frozenset()


def _caller(params: Any, context: ServerCallContext) -> tuple[Principal, Reading]:
    """Return who asks, and what reads for him; a tenant that is named has to be his."""
    who: Principal = context.state["who"]
    if {context.tenant or "", params.tenant} - {"", who.tenant_id}:
        raise Forbidden("The token is not one of this tenant.")
    return who, Reading(context.state["services"], who)


def _run_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise TaskNotFoundError(message=f"There is no task {text[:100]!r}.") from None


def _history(params: SendMessageConfiguration | GetTaskRequest | ListTasksRequest, default: int = MAX_HISTORY) -> int:
    if not params.HasField("history_length"):
        return default
    if params.history_length < 0:
        raise invalid("The length of the history is 0 or more.", "historyLength")
    return min(params.history_length, MAX_HISTORY)


def _is_question(update: Update) -> bool:
    return isinstance(update, TaskStatusUpdateEvent) and update.status.state in INTERRUPTED
