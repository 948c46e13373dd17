"""Push notification configs: where a client wants to be told of a task."""

from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5

from a2a.types import AuthenticationInfo, TaskPushNotificationConfig
from a2a.utils.errors import TaskNotFoundError

from dalang.api.a2a.inputs import invalid
from dalang.api.a2a.notices import MAX_TEXT, checked_url
from dalang.api.a2a.reading import Reading
from dalang.api.auth import Principal
from dalang.store.a2a_push import PushConfig, delete_config, list_configs, put_config

MAX_CONFIGS = 10
"""Of one task."""


async def put(
    given: TaskPushNotificationConfig, run_id: UUID, who: Principal, reading: Reading, *, from_start: bool = False
) -> TaskPushNotificationConfig:
    """Have somebody told of a run from now on, or of all of it; the same id replaces what was there."""
    made = checked(given, reading)
    run = await reading.run(run_id)
    config = PushConfig(
        tenant_id=who.tenant_id,
        run_id=run_id,
        config_id=made.id,
        url=made.url,
        token=made.token or None,
        scheme=made.authentication.scheme or None,
        credentials=made.authentication.credentials or None,
        created_by=who.subject,
        sent_epoch=0 if from_start else run.head_epoch,
        sent_seq=0 if from_start else run.head_seq,
    )
    async with reading.it.transaction(who.tenant_id) as conn:
        known = {one.config_id for one in await list_configs(conn, who.tenant_id, run_id)}
        if len(known | {config.config_id}) > MAX_CONFIGS:
            raise invalid(f"A task has at most {MAX_CONFIGS} receivers.", "id")
        await put_config(conn, config)
    reading.it.pusher.wake.set()
    return shown(config)


def checked(given: TaskPushNotificationConfig, reading: Reading) -> TaskPushNotificationConfig:
    """Return a config with an id.

    Raises:
        InvalidParamsError: its address may not be told, or something is too long.
    """
    authentication = given.authentication
    for text in (given.id, given.token, authentication.scheme, authentication.credentials):
        if len(text) > MAX_TEXT or not text.isprintable() or not text.isascii():
            raise invalid(f"It is {MAX_TEXT} printable ASCII characters at most.", "taskPushNotificationConfig")
    made = TaskPushNotificationConfig()
    made.CopyFrom(given)
    made.url = checked_url(reading.it, given.url)
    made.id = given.id or str(uuid5(NAMESPACE_URL, given.url))
    return made


async def get(run_id: UUID, config_id: str, who: Principal, reading: Reading) -> TaskPushNotificationConfig:
    """Return a config. Raises TaskNotFoundError."""
    for one in await all_of(run_id, who, reading):
        if one.id == config_id:
            return one
    raise TaskNotFoundError(message=f"The task {run_id} has no push notification config {config_id[:100]!r}.")


async def all_of(run_id: UUID, who: Principal, reading: Reading) -> list[TaskPushNotificationConfig]:
    """Return the configs of a run. Raises TaskNotFoundError."""
    await reading.run(run_id)
    async with reading.it.transaction(who.tenant_id) as conn:
        return [shown(one) for one in await list_configs(conn, who.tenant_id, run_id)]


async def delete(run_id: UUID, config_id: str, who: Principal, reading: Reading) -> None:
    """Tell nobody there any more; that there is no such config is fine. Raises TaskNotFoundError."""
    await reading.run(run_id)
    async with reading.it.transaction(who.tenant_id) as conn:
        await delete_config(conn, who.tenant_id, run_id, config_id)


def shown(config: PushConfig) -> TaskPushNotificationConfig:
    """Return a config as it is answered: without what the receiver is convinced with."""
    scheme = None if config.scheme is None else AuthenticationInfo(scheme=config.scheme)
    return TaskPushNotificationConfig(
        id=config.config_id,
        task_id=str(config.run_id),
        url=config.url,
        token=config.token or "",
        authentication=scheme,
    )
