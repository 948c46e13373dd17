"""Who has the database but not the key: whatever he rewrites, consistently too, is found."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.signing import KeyFileError, Keyring, SignatureState, head_document, new_key
from dalang.store import chain
from dalang.store.engine import transaction
from dalang.store.runs import Run
from dalang.store.verification import Tampering, Verification, verify_run
from tests.store.world import TENANT, World, begun, change, ended, fact, intrusion, tamper


@pytest.fixture
def signing(engine: AsyncEngine) -> World:
    """A tenant whose heads are signed."""
    return World(engine, Keyring.read(new_key()))


async def verify(world: World, run: Run, keys: Keyring | None = None) -> Verification:
    async with transaction(world.engine, TENANT) as conn:
        return await verify_run(conn, TENANT, run.run_id, keys=keys or world.keys)


def what(result: Verification) -> tuple[str, str]:
    assert result.finding is not None, "nothing was found"
    return result.finding.what, f"{result.finding.epoch}.{result.finding.seq}"


async def test_every_head_is_signed(signing: World, world: World) -> None:
    """After each flush, also after a repeated one, which answers the same; empty chains need none."""
    run = await signing.run()
    assert (await verify(signing, run)).valid
    head: Any = await signing.flush(run, begun())
    assert (await verify(signing, run)).signature is SignatureState.VALID
    assert signing.keys.check(head_document(TENANT, run.run_id, head), head["signature"]) is SignatureState.VALID
    assert await signing.flush(run, begun()) == head
    await signing.flush(run, ended(), head)
    assert (await verify(signing, run)).valid
    assert (await verify(world, run)).signature is SignatureState.NOT_CHECKED


async def test_an_unsigned_head_is_found(signing: World, world: World) -> None:
    """One that a worker without keys wrote last."""
    run = await signing.run()
    head = await signing.flush(run, begun())
    await world.flush(run, ended(), head)
    assert what(await verify(signing, run)) == (Tampering.UNSIGNED, "0.8")


async def test_keys_rotate(signing: World) -> None:
    """What the old key signed holds while its public key is known, and is found when it is not."""
    run, _ = await signing.whole()
    old = "".join(_public_pem(signing.keys))
    new = new_key()
    assert (await verify(signing, run, Keyring.read(new + old))).signature is SignatureState.VALID
    result = await verify(signing, run, Keyring.read(new))
    assert (what(result), result.signature) == ((Tampering.FORGED, "0.8"), SignatureState.UNKNOWN_KEY)
    both = Keyring.read(new + new_key() + old)
    assert both.own_id == Keyring.read(new).own_id
    assert len(both.public_keys) == 3


def _public_pem(keys: Keyring) -> list[str]:
    return [
        f"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA{value}\n-----END PUBLIC KEY-----\n"
        for value in keys.public_keys.values()
    ]


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_file_is_refused(text: str) -> None:
    """At the start of a process, not at the first signature."""
    with pytest.raises(KeyFileError):
        Keyring.read(text)


FORGERIES = [
    'UPDATE run_events SET data = data || \'{"by": "nobody"}\' WHERE run_id = :run AND seq = 6',
    "UPDATE run_events SET type = 'NODE_COMPLETED' WHERE run_id = :run AND seq = 6",
    "DELETE FROM run_events WHERE run_id = :run AND seq = 8",
    "UPDATE run_events SET body_digest = NULL WHERE run_id = :run AND seq = 8",
    "UPDATE execution_runs SET head_signature = NULL WHERE run_id = :run",
    "UPDATE execution_runs SET head_signature = 'ed25519:x:y' WHERE run_id = :run",
    "UPDATE execution_runs SET head_signature = replace(head_signature, 'ed25519', 'none') WHERE run_id = :run",
    "UPDATE execution_runs SET head_signature = left(head_signature, -8) || 'AAAAAA==' WHERE run_id = :run",
]


async def test_whoever_rewrites_the_whole_chain_is_found(signing: World, intruder: AsyncEngine) -> None:
    """A forged event, with every hash after it and the head computed again: only the key is missing."""
    run, _ = await signing.whole()
    for sql in FORGERIES:
        async with intrusion(intruder) as conn:
            await change(conn, "DELETE FROM event_bodies WHERE seq = 8")
            await change(conn, sql, run=run.run_id)
            await rewrite(conn, run.run_id)
            assert (await verify_run(conn, TENANT, run.run_id)).valid, "the forgery is not good enough"
            result = await verify_run(conn, TENANT, run.run_id, keys=signing.keys)
        place = f"0.{result.head['seq']}"
        assert what(result) in ((Tampering.FORGED, place), (Tampering.UNSIGNED, place))


async def rewrite(conn: AsyncConnection, run_id: UUID) -> None:
    """Compute the chain of a run again, and its head, as somebody does who knows the code."""
    columns = "seq, type, node_id, at, data, body_digest, audit"
    previous, seq = "", 0
    events = text(f"SELECT {columns} FROM run_events WHERE run_id = :run ORDER BY seq")
    for row in (await conn.execute(events, {"run": run_id})).all():
        event = chain.Transition(*row[:5], None, audit=row[6])
        own, seq = chain.event_hash(run_id, TENANT, 0, event, row[5], previous), row[0]
        sql = "UPDATE run_events SET previous_hash = :previous, hash = :own WHERE run_id = :run AND seq = :seq"
        await change(conn, sql, previous=previous, own=own, run=run_id, seq=seq)
        previous = own
    sql = "UPDATE execution_runs SET head_hash = :hash, head_seq = :seq WHERE run_id = :run"
    await change(conn, sql, hash=previous, seq=seq, run=run_id)


async def test_signatures_are_of_one_run(signing: World, intruder: AsyncEngine) -> None:
    """Runs that changed names, with all their events, are found."""
    one, _ = await signing.whole()
    other = await signing.run()
    await signing.flush(other, [*begun(), fact(5, "NODE_COMPLETED", "a", status="SUCCESS")])
    signatures = dict(await signing.rows("SELECT run_id, head_signature FROM execution_runs"))
    for run, taken in ((one, other), (other, one)):
        sql = "UPDATE execution_runs SET head_signature = :taken WHERE run_id = :run"
        await tamper(intruder, sql, taken=signatures[taken.run_id], run=run.run_id)
    assert what(await verify(signing, one)) == (Tampering.FORGED, "0.8")
    nowhere = UUID(int=9)
    for table in ("run_events", "event_bodies"):
        for old, new in ((one.run_id, nowhere), (other.run_id, one.run_id), (nowhere, other.run_id)):
            await tamper(intruder, f"UPDATE {table} SET run_id = :new WHERE run_id = :old", new=new, old=old)
    assert what(await verify(signing, one)) == (Tampering.CHANGED, "0.1")
    assert what(await verify(signing, other)) == (Tampering.CHANGED, "0.1")
