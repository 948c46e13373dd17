"""One node's work with an agent, from the first message to the end of the task, across crashes of either side.

Theory of operation. The agent's task is what counts; streams only tell earlier how it stands. Before a message goes out
the checkpoint says so, and as soon as the task's id is known the checkpoint holds it. So the next attempt - after a
crash, a lost answer, a restart - asks for the task it has, or looks for one that took the message, and sends again only
where there is none; the message has the same id then. After a task that failed for good the next attempt is another
task, and its message has another id.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

import httpx
from temporalio import activity

from dalang.activities.a2a import wayang
from dalang.activities.a2a.call import Call, call_of, call_of_agent, context_id, message_id, parts_of
from dalang.activities.a2a.files import kept_files, sent_files
from dalang.activities.a2a.meaning import (
    ENDED,
    WORKING,
    answer_of,
    content_of,
    failure_of,
    has_message,
    mark_of,
    outputs_of,
    question_of,
    state_of,
    words_of,
)
from dalang.activities.callbacks import filled_in
from dalang.activities.egress import http_client
from dalang.activities.http_failures import Bounded
from dalang.activities.secrets import Vault, reveal_configured
from dalang.nodes import InvalidInput, Memory, NetworkError, NodeContext, NodeFailure, TimedOut, ToolError

if TYPE_CHECKING:
    from dalang.activities.a2a.peer import Cards, Peer

FIRST_POLL, MOST_POLL, POLL_GROWTH = 0.25, 5.0, 1.5
"""Seconds between two looks at a task, where the node does not say."""
SILENCE_SECONDS = 20.0
"""After so long without a word on a stream the task is looked at."""
GIVE_UP_SECONDS = 20.0
"""How long a cancelled task is waited for; a node that cannot be undone is not kept waiting so long."""
MAX_RESPONSE_BYTES = 32 * 1024 * 1024
MOST_TRIES = 20
"""So many tasks of a node are looked for when it is undone."""
MISSING = "nodes of type a2a need the extra: pip install 'dalang[a2a]'"

logger = logging.getLogger("dalang.activities.a2a")
JSON = dict[str, Any]


class A2A:
    """Calls agents, through one pooled client and with one store of agent cards. One per worker process."""

    def __init__(self, vault: Vault | None = None) -> None:
        self._vault = vault or Vault()
        self._client = http_client(
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=10.0),
            event_hooks={"response": [_bound]},
        )
        self._cards: Cards | None = None

    async def close(self) -> None:
        """Close the pool."""
        await self._client.aclose()

    async def __call__(self, ctx: NodeContext) -> Any:
        """Do a node of type ``a2a``."""
        return await self._do(ctx, call_of(filled_in(dict(ctx.inputs), ctx.callback_url)))

    async def for_agent(self, ctx: NodeContext, endpoint: Mapping[str, Any]) -> Any:
        """Do a node of type ``agent`` with an agent of the registry; secrets that it names are those of the tenant."""
        known = await reveal_configured(ctx, endpoint, self._vault) if "headers" in endpoint else endpoint
        return await self._do(ctx, call_of_agent(known, ctx.inputs))

    async def _do(self, ctx: NodeContext, call: Call) -> Any:
        if call.protocol == "wayang":
            return await wayang.send(self._client, call, ctx)
        try:
            # In a thread: the SDK takes a second to import, and a worker has other things to do.
            module = await asyncio.to_thread(importlib.import_module, "dalang.activities.a2a.peer")
        except ImportError as error:
            raise InvalidInput(f"{MISSING} ({error})", no_effect=True) from None
        if self._cards is None:
            self._cards = module.Cards()
        card = await self._cards.get(self._client, call.url, call.headers)
        work = Work(ctx, call, module.Peer(self._client, card, call.url, call.headers))
        if call.cancel:
            return await work.cancel_what_is_undone()
        try:
            return await work.do()
        except NetworkError:
            self._cards.forget(call.url, call.headers)
            raise
        except asyncio.CancelledError:
            await work.give_up()
            raise


async def _bound(response: httpx.Response) -> None:
    response.stream = Bounded(response.stream, MAX_RESPONSE_BYTES)


class Work:
    """One attempt of a node with its agent.

    What the next attempt needs is kept as ``_left``: ``tries`` counts the tasks that failed before this one, ``sent``
    says that the first message may have gone out, ``task`` is the id of the present task as soon as it is known,
    ``asked`` the last question that was put to a person.
    """

    def __init__(self, ctx: NodeContext, call: Call, peer: Peer) -> None:
        self._ctx = ctx
        self._call = call
        self._peer = peer
        left = ctx.restored if isinstance(ctx.restored, dict) else {}
        # By a digest: an address may hold a secret, and checkpoints are stored.
        self._agent = hashlib.sha256(call.url.encode()).hexdigest()[:16]
        self._left: JSON = dict(left) if left.get("agent") == self._agent else {"agent": self._agent}
        self._context = context_id(ctx)
        self._pause = FIRST_POLL

    async def do(self) -> Any:
        """See the work to its end and return what it put out."""
        task = await self._found()
        if task is None:
            answered = await self._send(self._first())
        elif self._is_answered(task):
            answered = await self._send(self._reply())
        else:
            answered = {"task": task}
        if "task" not in answered:
            said = content_of(answered["message"].get("parts") or ())
        else:
            said = self._meant(await self._at_rest(answered["task"]))
        return {**await kept_files(self._ctx, said), "a2a": self._about()}

    @property
    def _task(self) -> str | None:
        return self._left.get("task")

    # -- messages ----------------------------------------------------------------------------------------------------

    def _first(self) -> JSON:
        call = self._call
        metadata = {**call.metadata, **({"skill": call.skill} if call.skill else {})}
        if self._ctx.memory != Memory():
            metadata["memory"] = self._ctx.memory.wire()
        message = self._message(self._first_id(), call.rest if call.message is None else call.message)
        return {**message, "metadata": metadata} if metadata else message

    def _first_id(self) -> str:
        return message_id(self._ctx.idempotency_key, self._left.get("tries", 0))

    def _reply(self) -> JSON:
        answer = self._ctx.answer
        assert answer is not None
        return {**self._message(self._reply_id(answer.task), answer_of(answer.values)), "taskId": self._task}

    def _reply_id(self, question: str) -> str:
        return message_id(self._ctx.idempotency_key, "answer", question)

    def _message(self, identity: str, content: Any) -> JSON:
        return {
            "messageId": identity,
            "contextId": self._context,
            "role": "ROLE_USER",
            "parts": parts_of(content),
        }

    def _is_answered(self, task: JSON) -> bool:
        """Tell whether a person has answered what the agent asks, and the agent was not told yet."""
        answer = self._ctx.answer
        if answer is None or state_of(task) != "INPUT_REQUIRED" or self._left.get("asked") != mark_of(task):
            return False
        return not has_message(task, [self._reply_id(answer.task)])

    async def _send(self, message: JSON) -> JSON:
        """Send a message and return the task that takes it, or the message that answers it at once."""
        message["parts"] = await sent_files(self._ctx, message["parts"])
        self._keep(sent=True)
        if not self._streams():
            return self._taken(await self._peer.send(message, wait=self._call.mode == "wait"))
        try:
            async with contextlib.aclosing(self._peer.stream(message)) as events:
                return await self._heard(events)
        except (NetworkError, TimedOut) as failure:
            if self._task is None:
                raise
            logger.info("the stream of task %s broke: %s", self._task, failure)
            return {"task": await self._look()}

    def _streams(self) -> bool:
        return self._call.mode == "stream" or (self._call.mode == "auto" and self._peer.streams)

    def _taken(self, answered: JSON) -> JSON:
        task = answered.get("task")
        if isinstance(task, dict):
            self._note(task.get("id"))
        elif not isinstance(answered.get("message"), dict):
            raise ToolError(f"agent {self._peer.name} answered neither a task nor a message")
        return answered

    def _note(self, task_id: Any) -> None:
        """Remember the id of our task."""
        if not isinstance(task_id, str) or not task_id:
            raise ToolError(f"agent {self._peer.name} answered a task without an id")
        if self._task not in (None, task_id):
            raise ToolError(f"agent {self._peer.name} answered with another task than ours: {task_id[:200]}")
        if self._task is None:
            self._keep(task=task_id)

    def _keep(self, **more: Any) -> None:
        self._left.update(more)
        self._ctx.checkpoint(dict(self._left))

    # -- following ---------------------------------------------------------------------------------------------------

    async def _found(self) -> JSON | None:
        """Return the task that an earlier attempt left with the agent, if there is one."""
        from dalang.activities.a2a.peer import TaskLost

        if self._task is not None:
            try:
                return await self._look()
            except TaskLost:
                # The agent has forgotten it, so it does nothing any more: asked again, under the same id.
                del self._left["task"]
                return None
        if "sent" not in self._left and self._ctx.attempt == 1:
            return None
        tasks = await self._peer.find(self._context, [self._first_id()])
        if not tasks:
            return None
        self._note(tasks[0].get("id"))
        return await self._look()

    async def _at_rest(self, task: JSON) -> JSON:
        """Return the task when the agent does nothing more at it."""
        while state_of(task) in WORKING:
            self._tell(task)
            heard = await self._listened() if self._streams() else None
            if heard is None:
                await asyncio.sleep(self._next_pause())
                heard = await self._look()
            task = heard
        return task

    async def _listened(self) -> JSON | None:
        """Follow the task on a stream; return it if it came to rest, None if there is no more to hear."""
        assert self._task is not None
        try:
            async with contextlib.aclosing(self._peer.follow(self._task)) as events:
                task: JSON = (await self._heard(events))["task"]
        except NodeFailure as failure:
            # Whatever is wrong with streams, asking for the task tells it better.
            logger.info("task %s cannot be followed: %s", self._task, failure)
            return None
        return None if state_of(task) in WORKING else task

    async def _heard(self, events: AsyncGenerator[JSON]) -> JSON:
        """Follow a stream until nothing more will come; return the task, as far as it was told, or the message."""
        task: JSON | None = None
        while task is None or state_of(task) in WORKING:
            try:
                async with asyncio.timeout(None if task is None else SILENCE_SECONDS):
                    event = await anext(events)
            except (StopAsyncIteration, TimeoutError):
                break
            if "message" in event and task is None:
                return self._taken(event)
            if "task" in event:
                task = self._taken(event)["task"]
            elif "statusUpdate" in event:
                update = event["statusUpdate"]
                self._note(update.get("taskId"))
                task = {"id": self._task, "status": update.get("status")}
            if task is not None:
                self._tell(task)
        if task is None:
            raise NetworkError(f"agent {self._peer.name} ended its stream without a word")
        # What a stream tells of the end is not the whole task, with all its artifacts.
        return {"task": task if state_of(task) in WORKING else await self._look()}

    async def _look(self) -> JSON:
        """Return the task as it stands; an agent that is away meanwhile is waited for, as long as the node says."""
        from dalang.activities.a2a.peer import TaskLost

        assert self._task is not None
        until = asyncio.get_running_loop().time() + self._call.patience / 1000
        while True:
            try:
                task = await self._peer.get(self._task)
                break
            except TaskLost:
                raise
            except (NetworkError, TimedOut):
                if asyncio.get_running_loop().time() >= until:
                    raise
                self._ctx.progress(f"agent {self._peer.name} is away")
                await asyncio.sleep(self._next_pause())
        self._note(task.get("id"))
        return task

    def _next_pause(self) -> float:
        if self._call.poll_interval is not None:
            return self._call.poll_interval / 1000
        pause, self._pause = self._pause, min(self._pause * POLL_GROWTH, MOST_POLL)
        return pause

    def _tell(self, task: JSON) -> None:
        self._ctx.progress(words_of(task) or state_of(task).lower())

    # -- the end -----------------------------------------------------------------------------------------------------

    def _meant(self, task: JSON) -> JSON:
        """Return what a task put out; raises what else it means."""
        state = state_of(task)
        if state == "COMPLETED":
            return outputs_of(task)
        if state == "INPUT_REQUIRED":
            self._keep(asked=mark_of(task))
            person = self._call.person
            due = None if person.due is None else person.due / 1000
            raise question_of(task, self._peer.name, assignee=person.assignee, group=person.candidate_group, due=due)
        failure = failure_of(task, self._peer.name)
        if state != "AUTH_REQUIRED":
            self._begin_anew()
        raise failure

    def _about(self) -> JSON:
        told = {"agent": self._peer.name, "taskId": self._task, "contextId": self._context}
        return {name: value for name, value in told.items() if value}

    def _begin_anew(self) -> None:
        """What comes next is another task."""
        self._left = {"agent": self._agent, "tries": self._left.get("tries", 0) + 1}
        self._keep()

    async def give_up(self) -> None:
        """Have the agent stop, if the work is not wanted any more; another attempt goes on with it otherwise."""
        if not self._is_unwanted() or not ("sent" in self._left or self._task):
            return
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                found = [] if self._task else await self._peer.find(self._context, [self._first_id()])
                task_id = self._task or (found[0].get("id") if found else None)
                self._begin_anew()
                if task_id:
                    await self._peer.cancel(task_id)
        except (NodeFailure, TimeoutError) as failure:
            logger.warning("a task of agent %s could not be cancelled: %s", self._peer.name, failure)

    def _is_unwanted(self) -> bool:
        """Whether nobody goes on with it: the node was stopped, or this attempt ran out of time and is the last."""
        details = activity.cancellation_details() if activity.in_activity() else None
        if details is not None:
            return details.cancel_requested
        return self._ctx.attempt >= self._ctx.max_attempts

    async def cancel_what_is_undone(self) -> JSON:
        """Have the agent stop at the task of the node that this compensation undoes."""
        undoes = self._ctx.undoes
        if undoes is None:
            raise InvalidInput("`cancel` is for compensations: it stops the task of the node that is undone")
        ids = [message_id(undoes.idempotency_key, tries) for tries in range(MOST_TRIES)]
        tasks = await self._peer.find(self._context, ids)
        at_work = [str(task.get("id")) for task in tasks if state_of(task) not in ENDED]
        for task_id in at_work:
            await self._peer.cancel(task_id)
        return {"cancelled": at_work}
