"""The last state of each work is kept; that of an attempt that was replaced changes nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store import checkpoints, retention
from dalang.store.checkpoints import StoredCheckpoint, Work
from dalang.store.engine import system_transaction, transaction
from tests.store.world import TENANT, World, tamper

AT = datetime(2026, 11, 22, tzinfo=UTC)


def state(begun: int, number: int, text: str = "{}") -> StoredCheckpoint:
    """A state that the attempt begun so many seconds after the first left as its n-th."""
    at = AT + timedelta(seconds=begun)
    return StoredCheckpoint(at, 1, number, at, len(text), text)


async def put(world: World, work: Work, new: StoredCheckpoint, tenant: str = TENANT) -> None:
    async with transaction(world.engine, tenant) as conn:
        await checkpoints.put_checkpoint(conn, tenant, work, new)


async def get(world: World, work: Work, tenant: str = TENANT) -> StoredCheckpoint | None:
    async with transaction(world.engine, tenant) as conn:
        return await checkpoints.get_checkpoint(conn, tenant, work)


async def test_the_newest_state_is_kept(world: World) -> None:
    """By when its attempt began and by its number; an older attempt that still works overwrites nothing."""
    work = Work((await world.run()).run_id, "a", 0, 0)
    assert await get(world, work) is None
    for new in (state(1, 1), state(1, 2), state(5, 1, '{"new":1}'), state(1, 3), state(5, 1), state(0, 9)):
        await put(world, work, new)
    assert await get(world, work) == state(5, 1, '{"new":1}')
    assert await get(world, work, "other") is None


async def test_each_generation_and_iteration_is_work_of_its_own(world: World) -> None:
    """A new one has nothing to go on from, and what earlier ones left goes; of other nodes nothing does."""
    run_id = (await world.run()).run_id
    first, other = Work(run_id, "a", 0, 0), Work(run_id, "b", 0, 0)
    await put(world, first, state(1, 1))
    await put(world, other, state(1, 1))
    for work in (replace(first, generation=1), replace(first, iteration=1)):
        assert await get(world, work) is None
        await put(world, work, state(2, 1))
    assert await get(world, first) is None
    assert await get(world, replace(first, iteration=1)) == state(2, 1)
    assert await get(world, other) == state(1, 1)
    async with transaction(world.engine, TENANT) as conn:
        last = await checkpoints.last_checkpoint(conn, TENANT, run_id, "a")
    assert last is not None
    assert (last.saved_at, last.size) == (AT + timedelta(seconds=2), 2)


async def test_nothing_is_kept_for_a_run_that_is_gone(world: World) -> None:
    """Deleted meanwhile, or of another tenant."""
    work = Work(uuid4(), "a", 0, 0)
    await put(world, work, state(1, 1))
    assert await get(world, work) is None
    mine = Work((await world.run()).run_id, "a", 0, 0)
    await put(world, mine, state(1, 1), "other")
    assert await get(world, mine, "other") is None


async def test_states_go_with_their_run(world: World, intruder: AsyncEngine) -> None:
    """Erasing what users put into a run erases them; deleting the run deletes them."""
    erased, deleted = [Work((await world.whole())[0].run_id, "a", 0, 0) for _ in range(2)]
    for work in (erased, deleted):
        await put(world, work, state(1, 1))
    async with transaction(world.engine, TENANT) as conn:
        await retention.erase_bodies(conn, TENANT, erased.run_id)
    assert await get(world, erased) is None
    assert await get(world, deleted) is not None
    await tamper(intruder, "UPDATE execution_runs SET completed_at = now() - interval '1 day'")
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, datetime.now(UTC), tenant_id=TENANT) == 2
    assert await world.rows("SELECT * FROM node_checkpoints") == []
