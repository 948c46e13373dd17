"""Sessions of nodes: opened before the handler works, merged when it has succeeded, closed whatever happens.

Closing is guaranteed twice: by the attempt itself, however its handler ends, and by :meth:`Sessions.sweep` for those
whose worker was killed. A row in Postgres says that there is a session before there is one (``store/sessions.py``).

A session of the Cortex is help: when it does not answer, the node works without, and a merge that is owed is made
later; only a node whose plan says ``required`` fails. That the Cortex *refuses* a merge - a conflict - is an answer,
and fails the node. A worktree is a condition: without it the node would work on nothing, so it fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.activities.patience import patiently
from dalang.activities.worktrees import Conflict, GitError, Worktree, Worktrees
from dalang.cortex import Cortex, CortexError
from dalang.errors import SuggestedAction
from dalang.nodes import InvalidInput, NetworkError, NodeFailure, Session, ToolError
from dalang.store import sessions as store
from dalang.store.agents import AgentKind, get_agent
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.sessions import StoredSession
from dalang.wire import NodeTask

SWEEP_SECONDS = 30.0
TTL_MARGIN_SECONDS = 7 * 86_400
"""A Cortex closes a session by itself so long after the node's attempt must have ended; a person may be asked."""
GIT, CORTEX = "git", "cortex"
T = TypeVar("T")

logger = logging.getLogger("dalang.activities.sessions")


@dataclass(frozen=True)
class Held:
    """A session that an attempt works in."""

    row: StoredSession
    session: Session


class Sessions:
    """Opens, merges and closes sessions. One per worker process."""

    def __init__(self, engine: AsyncEngine, trees: Worktrees, cortex: Cortex | None) -> None:
        self._engine = engine
        self._trees = trees
        self._cortex = cortex

    # -- one attempt ---------------------------------------------------------------------------------------------------

    async def finished(self, task: NodeTask) -> dict[str, Any] | None:
        """Return the outputs of an earlier attempt that died after its work was done; what it owes is merged now."""
        for row in await self._rows(task):
            if row.state in ("MERGING", "MERGED") and row.outputs is not None:
                return await self._merged(row, dict(row.outputs))
        return None

    async def begin(self, task: NodeTask, spec: Mapping[str, Any], attempt: int) -> Held | None:
        """Open a session for an attempt; None: there is no Cortex that would, and the node does not require it.

        Raises:
            NodeFailure: there is no such repository or branch; or the Cortex does not, and is required.
        """
        wanted: Mapping[str, Any] = spec["session"]
        kind = GIT if "repository" in wanted else CORTEX
        required = bool(spec.get("required"))
        if kind == CORTEX and (self._cortex is None or (self._cortex.away and not required)):
            if required:
                raise InvalidInput("there is no Cortex for the node's session (setting cortex_url)", no_effect=True)
            logger.warning("node %s works without a session: there is no Cortex, or it is away", task["nodeId"])
            return None
        found = await self._go_on(task, kind, attempt)
        if found is not None:
            return found
        new = StoredSession(
            session_id=store.session_id(task["tenantId"], task["key"], task.get("starts", 0), attempt),
            tenant_id=task["tenantId"],
            run_id=UUID(task["runId"]),
            node_id=task["nodeId"],
            key=task["key"],
            kind=kind,
            state="OPEN",
            attempt=attempt,
            claims=0,
            place=await self._place(task, wanted, attempt),
            outputs=None,
            report=None,
        )
        await patiently(self._engine, new.tenant_id, lambda conn: store.open_session(conn, new), run_may_come=True)
        try:
            if kind == GIT or self._cortex is None:
                return await self._made(new)
            return await self._cortex.in_time(task["startToCloseMs"] / 4000, self._made(new))
        except CortexError as error:
            await self._ended(new, "CLOSED", {"error": str(error)})
            if not required:
                logger.warning("node %s works without a session: %s", new.node_id, error)
                return None
            raise NetworkError(str(error), details={"status": error.status}, no_effect=True) from None
        except BaseException:
            await asyncio.shield(self._closed(new, None))
            raise

    async def finish(self, held: Held, outputs: dict[str, Any]) -> dict[str, Any]:
        """Merge what was done and return the outputs with what came of that.

        Raises:
            NodeFailure: the changes conflict with those of others, or are outside of the scope.
        """
        row = held.row
        if row.kind == GIT:
            try:
                tip = await self._trees.commit(Worktree.of(row.place), str(row.place["message"]))
            except (GitError, OSError, NodeFailure) as error:
                await self._closed(row, {"error": str(error)[:1_000]})
                raise ToolError(f"what was done could not be committed: {error}") from None
            # Another attempt may merge it side by side, and find the branch removed already.
            row = replace(row, place={**row.place, "tip": tip})
        taken = await self._do(
            row.tenant_id, lambda conn: store.begin_merge(conn, row.session_id, row.claims, outputs, row.place)
        )
        if not taken:
            raise NodeFailure("another attempt has taken this one's session over")
        return await self._merged(replace(row, state="MERGING"), outputs)

    async def leave(self, held: Held) -> None:
        """Let the session stay for the attempt that goes on when a person has answered."""
        await self._do(
            held.row.tenant_id,
            lambda conn: store.keep_place(conn, held.row.session_id, {**held.row.place, "left": True}),
        )

    async def abandon(self, held: Held, task: NodeTask, goes_on: bool) -> None:
        """Close the session of an attempt that did not succeed: what was done in it is gone.

        With ``goes_on`` only the worker ends; whoever lives on keeps his session.
        """
        if not (goes_on and await self._lives_on(task)):
            await self._closed(held.row, None)

    async def _place(self, task: NodeTask, wanted: Mapping[str, Any], attempt: int) -> dict[str, Any]:
        """Return all that is needed to make, merge and close the session, by whomever."""
        scope = {"paths": wanted.get("paths", []), "readOnlyPaths": wanted.get("readOnlyPaths", [])}
        if "repository" in wanted:
            name = str(store.session_id(task["tenantId"], task["key"], task.get("starts", 0), attempt))
            tree = await self._trees.plan(task["tenantId"], wanted["repository"], wanted.get("base"), name)
            about = {"onConflict": wanted.get("onConflict", "fail"), "message": _message(task)}
            return {**tree.wire(), **scope, **about}
        assert self._cortex is not None
        about = {
            "workspace": wanted.get("workspace") or self._cortex.workspace,
            "agent": task.get("agent") or task.get("handler") or task["type"],
            "seconds": round(task["startToCloseMs"] / 1000) + TTL_MARGIN_SECONDS,
        }
        return {**scope, **about}

    async def _made(self, row: StoredSession) -> Held:
        """Make what the row tells of."""
        if row.kind == GIT:
            try:
                await self._trees.add(Worktree.of(row.place))
            except GitError as error:
                raise ToolError(f"there is no worktree for the node: {error}", no_effect=True) from None
            return Held(row, _session(row))
        remote, token = await self._remote(row)
        row = replace(row, place={**row.place, "id": remote})
        await self._do(row.tenant_id, lambda conn: store.keep_place(conn, row.session_id, row.place))
        return Held(row, _session(row, token))

    async def _remote(self, row: StoredSession) -> tuple[str, str | None]:
        """Return the id that the Cortex has given the session, or gives it now: the same for the same key."""
        assert self._cortex is not None
        place = row.place
        return await self._cortex.create_session(
            str(row.session_id),
            place["agent"],
            place["workspace"],
            place["paths"],
            place["readOnlyPaths"],
            place["seconds"],
        )

    async def _go_on(self, task: NodeTask, kind: str, attempt: int) -> Held | None:
        """Close what earlier attempts left, but for a session that is to go on.

        It is when the handler has asked a person, and when an agent that asks for work is still at it: the agent lives
        on when the worker dies that waits for it.
        """
        found: Held | None = None
        for row in [one for one in await self._rows(task) if one.state == "OPEN"]:
            if found is None and row.kind == kind and (row.place.get("left") or await self._lives_on(task)):
                if not self._is_here(row):
                    raise NetworkError("what was begun is in a worktree on another machine", no_effect=True)
                found = await self._claimed(row, UUID(task["runId"]))
                if found is not None:
                    continue
            await self._closed(row, {"reason": f"attempt {attempt} begins anew"})
        return found

    async def _lives_on(self, task: NodeTask) -> bool:
        """Whether somebody outside of workers does the node, who does not end with a worker."""
        name = task.get("agent")
        if name is None:
            return task["type"] == "a2a"
        agent = await self._do(task["tenantId"], lambda conn: get_agent(conn, task["tenantId"], name))
        return agent is not None and agent.kind in (AgentKind.POLL, AgentKind.A2A)

    def _is_here(self, row: StoredSession) -> bool:
        if row.kind == CORTEX:
            return self._cortex is not None and "id" in row.place
        tree = Worktree.of(row.place)
        return self._trees.holds(tree) and Path(tree.path).is_dir()

    async def _claimed(self, row: StoredSession, run_id: UUID) -> Held | None:
        claims = await self._do(row.tenant_id, lambda conn: store.claim(conn, row.session_id, run_id))
        if claims is None:
            return None
        mine = replace(row, claims=claims)
        return Held(mine, _session(mine))

    # -- the end of a session ------------------------------------------------------------------------------------------

    async def _merged(self, row: StoredSession, outputs: dict[str, Any]) -> dict[str, Any]:
        """Merge, if that is not done, and close; return the outputs with the report."""
        report = row.report or {}
        if row.state == "MERGING":
            report = await (self._merge_tree(row) if row.kind == GIT else self._merge_remote(row))
            if not report["merged"]:
                return {"merge": report, **outputs}  # it is owed: the session stays until it can be
            await self._ended(row, "MERGED", report)
        await self._removed(row)
        return {"merge": report, **outputs}

    async def _merge_tree(self, row: StoredSession) -> dict[str, Any]:
        tree, place = Worktree.of(row.place), row.place
        try:
            scope = (place["paths"], place["readOnlyPaths"])
            return await self._trees.merge(tree, place["tip"], *scope, place["message"])
        except Conflict as conflict:
            await self._closed(row, conflict.report, keep_branch=True)
            review = SuggestedAction.HUMAN_REVIEW if place.get("onConflict") == "review" else None
            raise ToolError(str(conflict), details={"conflict": conflict.report}, suggested_action=review) from None
        except GitError as error:
            await self._closed(row, {"error": str(error)}, keep_branch=True)
            raise ToolError(f"the changes could not be merged: {error}") from None
        except NodeFailure as failure:
            await self._closed(row, {"error": failure.message, **failure.details}, keep_branch=True)
            raise

    async def _merge_remote(self, row: StoredSession) -> dict[str, Any]:
        try:
            if self._cortex is None:
                raise CortexError("there is no Cortex any more (setting cortex_url)", away=True)
            if self._cortex.away:
                raise CortexError("the Cortex did not answer a moment ago", away=True)
            remote = row.place.get("id") or (await self._remote(row))[0]
            data = await self._cortex.merge_session(f"{row.session_id}-merge", remote)
        except CortexError as error:
            if error.away:
                logger.warning("the session of node %s is to be merged later: %s", row.node_id, error)
                return {"merged": False, "reason": str(error)}
            report = {**error.details, "merged": False, "status": error.status}
            await self._closed(row, report)
            raise ToolError(str(error), details={"conflict": report}) from None
        told = {"changes_merged": "changesMerged", "conflicts_resolved": "conflictsResolved", "new_version": "version"}
        return {"merged": True, **{ours: data[theirs] for theirs, ours in told.items() if theirs in data}}

    async def _closed(self, row: StoredSession, report: Mapping[str, Any] | None, *, keep_branch: bool = False) -> None:
        place = {**row.place, "keepBranch": True} if keep_branch else row.place
        await self._ended(replace(row, place=place), "CLOSED", report)
        await self._removed(replace(row, place=place))

    async def _ended(self, row: StoredSession, state: str, report: Mapping[str, Any] | None) -> None:
        await self._do(row.tenant_id, lambda conn: store.end_session(conn, row.session_id, state, report, row.place))

    async def _removed(self, row: StoredSession) -> None:
        """Remove what there is of an ended session outside of the table; what cannot be now is left to the sweep."""
        try:
            if row.kind == GIT:
                tree = Worktree.of(row.place)
                if not self._trees.holds(tree):
                    return  # on another machine, whose worker will
                await self._trees.remove(tree, keep_branch=bool(row.place.get("keepBranch")))
            elif self._cortex is not None:
                await self._cortex.close_session(row.place.get("id") or (await self._remote(row))[0])
            else:
                return
        except (CortexError, GitError, OSError, TimeoutError) as error:
            logger.warning("session %s is to be closed later: %s", row.session_id, error)
            return
        await self._do(row.tenant_id, lambda conn: store.mark_closed(conn, row.session_id))

    # -- what is left --------------------------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """Close what killed workers left, and merge what is owed; return how many sessions were looked at."""
        async with system_transaction(self._engine) as conn:
            left = await store.abandoned(conn, str(self._trees.folder.absolute()), self._cortex is not None)
        for row, succeeded in left:
            if row.kind == CORTEX and (self._cortex is None or self._cortex.away):
                continue
            try:
                if row.state == "MERGING" and succeeded:
                    await self._merged(row, {})
                elif row.state in ("OPEN", "MERGING"):
                    await self._closed(row, {"reason": "its worker did not"})
                else:
                    await self._removed(row)
            except NodeFailure as failure:
                logger.warning("session %s could not be merged: %s", row.session_id, failure.message)
        names = {path.name: path for path in await asyncio.to_thread(self._trees.leftovers)}
        ids = {found: name for name in names if (found := _uuid(name)) is not None}
        async with system_transaction(self._engine) as conn:
            known = await store.known_among(conn, list(ids))
        for session, name in ids.items():
            if session not in known:
                await self._trees.erase(names[name])
        return len(left)

    async def sweep_for_ever(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                if not is_connection_error(error):
                    logger.exception("closing sessions that were left failed")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _rows(self, task: NodeTask) -> list[StoredSession]:
        return await self._do(task["tenantId"], lambda conn: store.sessions_of(conn, task["tenantId"], task["key"]))

    async def _do(self, tenant_id: str, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return await patiently(self._engine, tenant_id, query)


def _session(row: StoredSession, token: str | None = None) -> Session:
    """Return what a handler gets to know of its session."""
    place = row.place
    return Session(
        kind=row.kind,
        id=place["id"] if row.kind == CORTEX else str(row.session_id),
        **{name: place.get(name) for name in ("path", "repository", "branch", "base", "workspace")},
        paths=tuple(place["paths"]),
        read_only_paths=tuple(place["readOnlyPaths"]),
        token=token,
    )


def _message(task: NodeTask) -> str:
    """Return the message of the commits that a node makes."""
    trailers = {"Dalang-Run": task["runId"], "Dalang-Node": task["nodeId"], "Dalang-Key": task["key"]}
    name = " ".join(str(task.get("name") or task["nodeId"]).split())[:200]
    return f"{name}\n\n" + "".join(f"{key}: {' '.join(str(value).split())}\n" for key, value in trailers.items())


def _uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
