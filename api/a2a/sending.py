"""What a message does: it starts a run, or decides a human task of one, by the same ways as REST.

The same message is the same task: it is recognised by its sender, id and content, also after the task has ended, as
long as the sender has not acted on the task - answered or cancelled it. Who has, got the answer to his message, so what
he sends then is no repetition. An ``Idempotency-Key`` header holds whatever he did.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import UUID, uuid4

from a2a.types import Message, Role, SendMessageRequest
from a2a.utils.errors import UnsupportedOperationError

from dalang.api.a2a.card import published
from dalang.api.a2a.inputs import chosen, decision, invalid, plain, run_inputs
from dalang.api.a2a.reading import Reading
from dalang.api.a2a.tasks import agent_message, question
from dalang.api.auth import Principal
from dalang.api.bodies import checked
from dalang.api.runs import checked_key
from dalang.api.schemas import ExecutePlanRequest
from dalang.api.services import Services
from dalang.api.starting import begin
from dalang.api.task_decisions import decide
from dalang.api.task_schemas import CompleteRequest
from dalang.canonical import digest, find_unsafe
from dalang.errors import Conflict
from dalang.statuses import RUN_ENDS, TASK_ENDS
from dalang.store.a2a import (
    add_message,
    contexts,
    count_answered,
    has_message,
    last_plan,
    list_skills,
    mark_answered,
    put_task,
)

MAX_SKILLS = 10_000
MAX_ID_LENGTH = 255


async def start(params: SendMessageRequest, who: Principal, it: Services, key: str | None) -> UUID:
    """Start the run that a message asks for; return its id, or that of the run which it has started before."""
    message, said = params.message, _checked(params.message)
    async with it.transaction(who.tenant_id) as conn:
        skills = published(await list_skills(conn, who.tenant_id, limit=MAX_SKILLS))
        last = await last_plan(conn, who.tenant_id, message.context_id) if message.context_id else None
    skill = chosen(skills, _named(params), None if last is None else str(last))
    context_id = message.context_id or str(uuid4())
    asked = {
        "planId": str(skill.plan_id),
        "planVersion": skill.version,
        "inputs": run_inputs(skill, message),
        "metadata": {"a2a": {"messageId": message.message_id, "contextId": context_id}},
    }
    wanted = checked(ExecutePlanRequest, asked)
    request = [who.subject, said, plain(params.configuration), plain(params.metadata)]
    made_by = await asyncio.to_thread(digest, request)
    try:
        begun = await begin(it, who, wanted, key=await _key(key, made_by, who, it), request_digest=made_by)
    except Conflict as error:
        raise invalid(str(error), "Idempotency-Key") from error
    run_id = begun.run.run_id
    async with it.transaction(who.tenant_id) as conn:
        context_id = await put_task(conn, who.tenant_id, run_id, context_id, made_by)
        await add_message(conn, who.tenant_id, run_id, "user", _addressed(said, run_id, context_id))
    return run_id


async def _key(given: str | None, made_by: str, who: Principal, it: Services) -> str:
    """Return the run's Idempotency-Key."""
    if checked_key(given) is not None:
        return f"a2a:key:{hashlib.sha256(f'{who.subject}/{given}'.encode()).hexdigest()}"
    async with it.transaction(who.tenant_id) as conn:
        return f"a2a:{made_by}:{await count_answered(conn, who.tenant_id, made_by)}"


def _named(params: SendMessageRequest) -> str | None:
    """Return the skill that a message, or its request, names."""
    for metadata in (plain(params.message.metadata), plain(params.metadata)):
        for name in ("skill", "skillId"):
            if isinstance(metadata.get(name), str):
                return str(metadata[name])
    return None


async def answer(message: Message, run_id: UUID, who: Principal, reading: Reading) -> tuple[UUID, frozenset[UUID]]:
    """Decide the human task that a message is about; return the run, and the task if that has ended it."""
    said, it = _checked(message), reading.it
    run = await reading.run(run_id)
    async with it.transaction(who.tenant_id) as conn:
        context_id = (await contexts(conn, who.tenant_id, [run_id]))[run_id]
        again = await has_message(conn, who.tenant_id, run_id, message.message_id)
        asked = await reading.questions(conn, run_id)
    if message.context_id not in ("", context_id):
        raise invalid("The message's context is not that of the task.", "message.contextId")
    if again:
        return run_id, frozenset()
    if run.status in RUN_ENDS:
        raise UnsupportedOperationError(message=f"The run is {run.status}; it takes no more messages.")
    if not asked:
        raise UnsupportedOperationError(message=f"The run is {run.status} and asks nothing at the moment.")
    task, decided = decision(message, asked)
    body = checked(CompleteRequest, decided)
    key = f"a2a:{hashlib.sha256(message.message_id.encode()).hexdigest()}"
    _, after = await decide(who, task.task_id, body, body.action, key, it)
    asking = agent_message(run_id, context_id, f"task/{task.task_id}", question(task))
    async with it.transaction(who.tenant_id) as conn:
        await mark_answered(conn, who.tenant_id, run_id)
        await add_message(conn, who.tenant_id, run_id, "agent", asking)
        await add_message(conn, who.tenant_id, run_id, "user", _addressed(said, run_id, context_id))
    return run_id, frozenset({task.task_id}) if after.status in TASK_ENDS else frozenset()


def _checked(message: Message) -> dict[str, Any]:
    """Return a message as JSON.

    Raises:
        InvalidParamsError: it is not a client's, or holds what cannot be stored.
    """
    if message.role != Role.ROLE_USER:
        raise invalid("The role of a message to an agent is ROLE_USER.", "message.role")
    for field, text in (("messageId", message.message_id), ("contextId", message.context_id)):
        if len(text) > MAX_ID_LENGTH:
            raise invalid(f"An id has {MAX_ID_LENGTH} characters at most.", f"message.{field}")
    said = plain(message)
    unsafe = find_unsafe(said)
    if unsafe is not None:
        raise invalid(f"The value {unsafe[1]}.", f"message{unsafe[0]}")
    return said


def _addressed(said: dict[str, Any], run_id: UUID, context_id: str) -> dict[str, Any]:
    return {**said, "taskId": str(run_id), "contextId": context_id}
