"""Large payloads of Temporal: one row per content, no database for what is known, and patience in an outage."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import (
    ExternalStorage,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

from dalang.errors import NotFound
from dalang.store.blobs import PostgresBlobDriver, delete_unused_blobs, make_blob
from dalang.store.engine import create_engine, is_connection_error, system_transaction
from tests.harness import PATIENCE, Database
from tests.store.outage import Relay
from tests.store.world import World, begun, ended, tamper

STORE, RETRIEVE = StorageDriverStoreContext(), StorageDriverRetrieveContext()


def payload(text: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain", "b": b"1", "a": b"2"}, data=text)


async def store(driver: PostgresBlobDriver, *payloads: Payload) -> list[StorageDriverClaim]:
    return await driver.store(STORE, payloads)


async def retrieve(driver: PostgresBlobDriver, claims: Sequence[StorageDriverClaim]) -> list[Payload]:
    return await driver.retrieve(RETRIEVE, claims)


async def test_payloads_come_back_as_they_were(world: World, engine: AsyncEngine) -> None:
    """In the order asked for, repeated ones too, compressed where it helps, by another process."""
    payloads = [payload(b"x" * 300_000), payload(os.urandom(200_000)), payload(b"x" * 300_000), payload(b"")]
    claims = await store(PostgresBlobDriver(engine), *payloads)
    assert await retrieve(PostgresBlobDriver(engine), claims) == payloads
    rows = await world.rows("SELECT size, compressed, length(data) FROM payload_blobs ORDER BY size")
    assert [(size > 200_000, compressed) for size, compressed, _ in rows] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert rows[2][2] < 5_000


async def test_what_is_known_needs_no_database(database: Database) -> None:
    """A replay and a repeated store go without a connection."""
    relay = Relay(database.url)
    await relay.restore()
    through = create_engine(relay.url, pooled=False)
    driver = PostgresBlobDriver(through, wait_seconds=0)
    claims = await store(driver, payload(b"x" * 100))
    await relay.cut()
    assert await store(driver, payload(b"x" * 100)) == claims
    assert await retrieve(driver, claims) == [payload(b"x" * 100)]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any error that says the database is away
        await store(driver, payload(b"new"))
    assert is_connection_error(caught.value)


async def test_before_a_large_payload_is_read_the_worker_is_told(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it can make room; of small ones it is not."""
    told = list[bool]()
    driver = PostgresBlobDriver(engine, on_large=lambda: told.append(True))
    small, large = await store(driver, payload(b"x" * 500), payload(b"x" * 1_500))
    monkeypatch.setattr("dalang.store.blobs.LARGE_BYTES", 1_000)
    assert await retrieve(driver, [small]) == [payload(b"x" * 500)]
    assert not told
    assert await retrieve(driver, [small, large]) == [payload(b"x" * 500), payload(b"x" * 1_500)]
    assert told


async def test_an_outage_is_waited_out(database: Database) -> None:
    """Stores and retrievals begun while the database is away end when it is back; pooled connections were cut."""
    relay = Relay(database.url)
    await relay.restore()
    through = create_engine(relay.url, pool_size=2)
    waiting = asyncio.Event()
    driver = PostgresBlobDriver(through, on_wait=waiting.set)
    claims = await store(driver, payload(b"known"))
    await relay.cut()
    other = PostgresBlobDriver(through, on_wait=waiting.set)
    both = asyncio.gather(store(driver, payload(b"new")), retrieve(other, claims))
    await asyncio.wait_for(waiting.wait(), PATIENCE)
    await relay.restore()
    stored, found = await asyncio.wait_for(both, PATIENCE)
    assert found == [payload(b"known")]
    assert await retrieve(other, stored) == [payload(b"new")]
    await through.dispose()
    await relay.cut()


async def test_other_loops_have_their_own_connections(engine: AsyncEngine) -> None:
    """A client in a thread with a loop of its own may share the driver of the worker."""
    driver = PostgresBlobDriver(engine, cache_bytes=0)
    claims = await store(driver, payload(b"here"))

    def elsewhere() -> list[StorageDriverClaim]:
        async def main() -> list[StorageDriverClaim]:
            assert await retrieve(driver, claims) == [payload(b"here")]
            return await store(driver, payload(b"there"))

        return asyncio.run(main())

    with ThreadPoolExecutor(1) as threads:
        theirs = await asyncio.get_running_loop().run_in_executor(threads, elsewhere)
    assert await retrieve(driver, theirs) == [payload(b"there")]


async def test_concurrent_stores_of_the_same_payloads_do_not_block_each_other(engine: AsyncEngine) -> None:
    """In whatever order they are given."""
    payloads = [payload(bytes([n]) * 1000) for n in range(20)]
    drivers = [PostgresBlobDriver(engine) for _ in range(4)]
    orders = [payloads, payloads[::-1], payloads, payloads[::-1]]
    claims = await asyncio.gather(*(store(driver, *order) for driver, order in zip(drivers, orders, strict=True)))
    assert claims[0] == claims[1][::-1] == claims[2]


async def test_a_changed_or_missing_blob_is_an_error(world: World, engine: AsyncEngine, intruder: AsyncEngine) -> None:
    """Nobody's history is replayed with other bytes."""
    claims = await store(PostgresBlobDriver(engine), payload(b"x" * 1000))
    for change in ("data = set_byte(data, 9, 255)", "data = ''", "compressed = false", "size = 5"):
        await tamper(intruder, f"UPDATE payload_blobs SET {change}")
        with pytest.raises(ValueError, match="changed"):
            await retrieve(PostgresBlobDriver(engine), claims)
        await tamper(intruder, "DELETE FROM payload_blobs")
        with pytest.raises(NotFound):
            await retrieve(PostgresBlobDriver(engine), claims)
        await store(PostgresBlobDriver(engine), payload(b"x" * 1000))


async def test_blobs_go_when_no_history_can_refer_to_them(
    world: World, engine: AsyncEngine, intruder: AsyncEngine
) -> None:
    """Old ones, unless a run that is as old is still open or ended lately; a store keeps a blob."""
    await store(PostgresBlobDriver(engine), payload(b"a"), payload(b"b"))
    run = await world.run()

    async def delete() -> int:
        async with system_transaction(engine) as conn:
            return await delete_unused_blobs(conn, 86_400)

    assert await delete() == 0
    await tamper(intruder, "UPDATE payload_blobs SET touched_at = now() - interval '30 days'")
    await tamper(intruder, "UPDATE execution_runs SET created_at = now() - interval '40 days'")
    assert await delete() == 0, "an open run may refer to it"
    await world.flush(run, ended(), await world.flush(run, begun()), status="FAILED")
    await tamper(intruder, "UPDATE execution_runs SET completed_at = now() - interval '2 hours'")
    assert await delete() == 0, "Temporal still has the history of a run that ended lately"
    await tamper(intruder, "UPDATE execution_runs SET completed_at = now() - interval '2 days'")
    await store(PostgresBlobDriver(engine), payload(b"b"))
    assert await delete() == 1
    assert await world.rows("SELECT digest FROM payload_blobs") == [
        (make_blob(payload(b"b").SerializeToString(deterministic=True)).digest,)
    ]


async def test_the_sdk_stores_and_reads_through_it(engine: AsyncEngine) -> None:
    """As the SDK's data converter calls it."""
    storage = ExternalStorage(drivers=[PostgresBlobDriver(engine)], payload_size_threshold=1000)
    converter = dataclasses.replace(pydantic_data_converter, external_storage=storage)
    values = [{"text": "x" * 5000}, "small", {"text": "x" * 5000}, list(range(5000))]
    encoded = await converter.encode(values)
    assert sum(one.ByteSize() for one in encoded) < 2000
    storage = ExternalStorage(drivers=[PostgresBlobDriver(engine)], payload_size_threshold=1000)
    converter = dataclasses.replace(pydantic_data_converter, external_storage=storage)
    assert await converter.decode(encoded) == values
