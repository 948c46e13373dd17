"""Anchors: what a signature cannot tell - that something is gone, or was put back - they do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang import merkle
from dalang.anchoring import Anchoring
from dalang.signing import Keyring, NoSigningKey, new_key
from dalang.store.anchors import Anchor, AnchorFinding, inclusion, leaf, list_anchors, make_anchor, verify_anchors
from dalang.store.engine import system_transaction, transaction
from dalang.store.retention import delete_finished_runs
from dalang.store.runs import Run
from dalang.store.unanchored import horizon, moved
from dalang.store.verification import Tampering, verify_run
from tests.store.test_signatures import rewrite
from tests.store.world import TENANT, World, begun, change, ended, intrusion, tamper


@pytest.fixture
def signing(engine: AsyncEngine) -> World:
    """A tenant whose heads are signed."""
    return World(engine, Keyring.read(new_key()))


async def anchor(world: World) -> Anchor | None:
    async with transaction(world.engine, TENANT) as conn:
        return await make_anchor(conn, TENANT, world.keys)


async def check(world: World) -> AnchorFinding | None:
    """Check all anchors, page by page."""
    cursor: str | None = None
    while True:
        async with transaction(world.engine, TENANT) as conn:
            _, finding, cursor = await verify_anchors(conn, TENANT, world.keys, limit=1, cursor=cursor)
        if finding is not None or cursor is None:
            return finding


async def three(world: World) -> tuple[Run, Run]:
    """Two runs, and three anchors: of both as they began, of one as it ended, of another run."""
    one, other = await world.run(), await world.run()
    head = await world.flush(one, begun())
    await world.flush(other, begun())
    assert await anchor(world)
    await world.flush(one, ended(), head, status="FAILED")
    assert await anchor(world)
    await world.whole()
    assert await anchor(world)
    return one, other


async def test_anchors_are_numbered_and_chained(signing: World) -> None:
    """Each holds what is new; without news there is none, and without a private key neither."""
    assert await anchor(signing) is None
    await three(signing)
    assert await anchor(signing) is None
    async with transaction(signing.engine, TENANT) as conn:
        page = await list_anchors(conn, TENANT, limit=2)
        rest = await list_anchors(conn, TENANT, limit=2, cursor=page.cursor)
    found = [*page.items, *rest.items]
    assert [(one.number, one.heads) for one in found] == [(1, 2), (2, 1), (3, 1)]
    assert [one.previous for one in found] == ["", *(one.digest for one in found[:2])]
    assert await check(signing) is None
    assert await check(World(signing.engine)) is None
    with pytest.raises(NoSigningKey):
        await anchor(World(signing.engine))


async def test_a_head_is_proven_to_be_in_its_anchor(signing: World) -> None:
    """By the path to the root of the newest anchor that holds one of the run."""
    one, other = await three(signing)
    for run, number, seq in ((one, 2, 8), (other, 1, 4)):
        async with transaction(signing.engine, TENANT) as conn:
            proven = await inclusion(conn, TENANT, run.run_id)
            assert await inclusion(conn, "other", run.run_id) is None
        assert proven is not None
        assert (proven.anchor.number, proven.head["seq"]) == (number, seq)
        path = [bytes.fromhex(step) for step in proven.path]
        own = leaf(TENANT, run.run_id, proven.head)
        assert merkle.root_by_proof(own, proven.index, proven.anchor.heads, path) == bytes.fromhex(proven.anchor.root)


TAMPERING = [
    ("UPDATE audit_anchors SET at = at + interval '1 s' WHERE number = 2", ("CHANGED", 2)),
    ("UPDATE audit_anchors SET root = previous WHERE number = 2", ("CHANGED", 2)),
    ("UPDATE audit_anchors SET digest = root WHERE number = 2", ("CHANGED", 2)),
    ("UPDATE audit_anchors SET signature = '' WHERE number = 2", ("FORGED", 2)),
    (
        "UPDATE audit_anchors a SET signature = b.signature FROM audit_anchors b WHERE a.number = 2 AND b.number = 1",
        ("FORGED", 2),
    ),
    ("DELETE FROM audit_anchors WHERE number = 2", ("REMOVED", 2)),
    ("DELETE FROM audit_anchors WHERE number = 3", ("REMOVED", 3)),
    ("UPDATE audit_anchors SET number = number + 5 WHERE number > 1", ("REMOVED", 2)),
    ("DELETE FROM audit_anchor_heads WHERE number = 1 AND position = 0", ("CHANGED", 1)),
    ("UPDATE audit_anchor_heads SET seq = 5 WHERE number = 2", ("CHANGED", 2)),
]


async def test_changed_anchors_are_found(signing: World, intruder: AsyncEngine) -> None:
    """One change of one kind."""
    await three(signing)
    for sql, expected in TAMPERING:
        async with intrusion(intruder) as conn:
            await change(conn, sql)
            _, found, _ = await verify_anchors(conn, TENANT, signing.keys, limit=100)
        assert found is not None, sql
        assert (found.what, found.number) == expected, sql


async def test_an_older_head_that_was_put_back_is_found(signing: World, intruder: AsyncEngine) -> None:
    """With its signature, from a copy of the database: the chain and the signature hold, the anchor does not."""
    run = await signing.run()
    head = await signing.flush(run, begun())
    [(signature,)] = await signing.rows("SELECT head_signature FROM execution_runs")
    await signing.flush(run, ended(), head, status="FAILED")
    assert await anchor(signing)
    await tamper(intruder, "DELETE FROM run_events WHERE seq > 4")
    await tamper(intruder, "DELETE FROM event_bodies WHERE seq > 4")
    await tamper(
        intruder,
        "UPDATE execution_runs SET head_seq = 4, head_hash = :hash, head_signature = :signature, status = 'RUNNING', "
        "completed_at = NULL",
        hash=head["hash"],
        signature=signature,
    )
    async with transaction(signing.engine, TENANT) as conn:
        result = await verify_run(conn, TENANT, run.run_id, keys=signing.keys)
    assert result.finding is not None
    assert (result.finding.what, result.finding.seq) == (Tampering.HEAD_CHANGED, 8)
    found = await check(signing)
    assert found is not None
    assert (found.what, found.run_id, found.seq) == ("REMOVED", run.run_id, 8)


async def test_rewritten_and_deleted_runs_are_found(signing: World, intruder: AsyncEngine) -> None:
    """The run is named; a run that retention deleted is none."""
    one, _ = await three(signing)
    await tamper(intruder, "UPDATE run_events SET node_id = 'b' WHERE run_id = :run AND seq = 3", run=one.run_id)
    async with intruder.begin() as conn:
        await conn.execute(text("SET LOCAL session_replication_role = replica"))
        await rewrite(conn, one.run_id)
    found = await check(signing)
    assert found is not None
    assert (found.what, found.run_id, found.seq) == ("HEAD_CHANGED", one.run_id, 4)
    async with transaction(signing.engine, TENANT) as conn:
        result = await verify_run(conn, TENANT, one.run_id, keys=signing.keys)
    assert result.finding is not None
    assert (result.finding.what, result.finding.seq) == (Tampering.HEAD_CHANGED, 4)
    for table in ("event_bodies", "run_events", "node_executions", "execution_runs"):
        await tamper(intruder, f"DELETE FROM {table} WHERE run_id = :run", run=one.run_id)
    found = await check(signing)
    assert found is not None
    assert (found.what, found.run_id) == ("REMOVED", one.run_id)


async def test_retention_is_no_tampering(signing: World, intruder: AsyncEngine) -> None:
    """A run that was deleted as a whole keeps its head, which its anchors are compared with."""
    run, _ = await signing.whole()
    assert await anchor(signing)
    await tamper(intruder, "UPDATE execution_runs SET completed_at = '2020-01-01'")
    async with system_transaction(signing.engine) as conn:
        assert await delete_finished_runs(conn, datetime.now(UTC)) == 1
    assert await check(signing) is None
    await tamper(intruder, "UPDATE retired_runs SET head_hash = :hash", hash="f" * 64)
    found = await check(signing)
    assert found is not None
    assert found.run_id == run.run_id


async def test_workers_anchor_what_is_due(signing: World) -> None:
    """Of each tenant once in the time; whoever comes first."""
    await signing.whole()
    theirs = await signing.run(tenant_id="globex")
    await signing.flush(theirs, begun())
    anchoring = Anchoring(signing.engine, signing.keys, 3600)
    assert await anchoring.step() == 2
    await signing.whole()
    assert await anchoring.step() == 0
    assert await Anchoring(signing.engine, signing.keys, 0.000001).step() == 1
    await Anchoring(signing.engine, Keyring(), 3600).anchor_for_ever()


SOON = 0.000001


async def test_a_worker_looks_only_at_what_has_moved(
    signing: World, intruder: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its first look; whatever else is in no anchor is found when it looks at everything again, a day later."""
    old = await signing.run()
    head = await signing.flush(old, begun())
    others = [(await signing.whole())[0] for _ in range(2)]
    anchoring = Anchoring(signing.engine, signing.keys, SOON)
    await _settled(signing)
    assert await anchoring.step() == 1
    await signing.flush(old, ended(), head, status="FAILED")
    looked_at = list[set[UUID]]()
    monkeypatch.setattr("dalang.anchoring.make_anchor", _noting(looked_at))
    assert await anchoring.step() == 1
    assert looked_at == [{old.run_id}]
    async with transaction(signing.engine, TENANT) as conn:
        proven = await inclusion(conn, TENANT, old.run_id)
    assert proven is not None
    assert (proven.anchor.number, proven.anchor.heads, proven.head["seq"]) == (2, 1, 8)
    assert await anchoring.step() == 0
    assert await check(signing) is None
    await tamper(intruder, "DELETE FROM audit_anchor_heads WHERE number = 1 AND run_id <> :run", run=old.run_id)
    assert await anchoring.step() == 0
    monkeypatch.setattr("dalang.anchoring.WHOLE_SECONDS", 0)
    assert await anchoring.step() == 1
    assert looked_at[-1] == {run.run_id for run in others}


def _noting(looked_at: list[set[UUID]]) -> Any:
    async def noted(conn: AsyncConnection, tenant_id: str, keys: Keyring, among: Sequence[UUID]) -> Anchor | None:
        looked_at.append(set(among))
        return await make_anchor(conn, tenant_id, keys, among)

    return noted


async def test_what_was_anchored_long_ago_is_not_rewritten_unnoticed(signing: World, intruder: AsyncEngine) -> None:
    """Nobody looks at an old run to make an anchor, so it gets no new one; the check of all anchors names it."""
    run, _ = await signing.whole()
    anchoring = Anchoring(signing.engine, signing.keys, SOON)
    await anchoring.step()
    await tamper(intruder, "UPDATE run_events SET node_id = 'b' WHERE run_id = :run AND seq = 3", run=run.run_id)
    async with intruder.begin() as conn:
        await conn.execute(text("SET LOCAL session_replication_role = replica"))
        await rewrite(conn, run.run_id)
    await signing.whole()
    assert await anchoring.step() == 1
    found = await check(signing)
    assert found is not None
    assert (found.what, found.number, found.run_id) == ("HEAD_CHANGED", 1, run.run_id)


async def test_what_has_moved_is_read_in_parts(signing: World) -> None:
    """However few events are read at once, also of one transaction; of no other tenant, and not what was before."""
    runs = [(await signing.whole())[0].run_id for _ in range(3)]
    since = await _settled(signing)
    assert await _moved(signing, 0, 1) == await _moved(signing, 0, 200) == set(runs)
    assert await _moved(signing, since, 1) == set()
    assert [found async for found in moved(signing.engine, ["globex"], 0)] == [{}]


async def _settled(world: World) -> int:
    """Wait until what is written by now is older than all that anybody still writes, and return the horizon."""
    async with system_transaction(world.engine) as conn:
        last = (await conn.execute(text("SELECT pg_current_xact_id()::text::bigint"))).scalar_one()
    while True:
        async with system_transaction(world.engine) as conn:
            found = await horizon(conn)
        if found > last:
            return found


async def _moved(world: World, since: int, span: int) -> set[UUID]:
    return {run async for found in moved(world.engine, [TENANT], since, span) for run in found.get(TENANT, ())}


async def test_a_database_of_another_past_is_looked_through(signing: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that was put into a new server while the worker ran: transactions are numbered anew there."""
    anchoring = Anchoring(signing.engine, signing.keys, SOON)
    monkeypatch.setattr("dalang.anchoring.horizon", _far)
    await signing.whole()
    assert await anchoring.step() == 1
    monkeypatch.undo()
    await signing.whole()
    assert await anchoring.step() == 1


async def _far(conn: AsyncConnection) -> int:
    return 1 << 60
