"""Old runs and whole tenants go, and what proves them stays."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.errors import Conflict
from dalang.retention import Policy, Retention
from dalang.signing import Keyring, NoSigningKey, SignatureState, new_key
from dalang.store import erasure, retention
from dalang.store.anchors import make_anchor, verify_anchors
from dalang.store.engine import system_transaction, transaction
from dalang.store.fates import FATES, Fate
from dalang.store.row_security import WITHOUT_TENANT
from dalang.store.schema import metadata
from dalang.store.tokens import create_token
from tests.store.world import TENANT, World, begun, tamper

_ENDED = "UPDATE execution_runs SET completed_at = now() - interval '31 days' WHERE completed_at IS NOT NULL"


@pytest.fixture
def signing(engine: AsyncEngine) -> World:
    """A tenant whose heads are signed."""
    return World(engine, Keyring.read(new_key()))


def test_every_table_has_a_fate() -> None:
    """A new table says when its rows go; what goes with its run refers to it, and so cannot be forgotten."""
    assert FATES.keys() == metadata.tables.keys() | {"alembic_version"}
    assert {name for name, fate in FATES.items() if fate is Fate.SYSTEM} == set(WITHOUT_TENANT)
    for name, fate in FATES.items():
        if fate is Fate.RUN and name != "execution_runs":
            assert "run_id" in metadata.tables[name].c, name


async def test_old_runs_go_and_their_heads_and_anchors_stay(signing: World, intruder: AsyncEngine) -> None:
    """By the policy of the tenant, not before; told before it is done; a tenant without a policy keeps all."""
    run, head = await signing.whole()
    other = await signing.run(tenant_id="other")
    await tamper(
        intruder, "UPDATE execution_runs SET status = 'FAILED', completed_at = now() WHERE run_id = :r", r=other.run_id
    )
    async with transaction(signing.engine, TENANT) as conn:
        assert await make_anchor(conn, TENANT, signing.keys)
    await tamper(intruder, _ENDED)
    policy = Retention(signing.engine, Policy(days=0, tenants={TENANT: 60}))
    assert await policy.step() == {}
    policy = Retention(signing.engine, Policy(days=0, tenants={TENANT: 30}))
    (due,) = await policy.due()
    assert (due.tenant_id, due.runs, due.events) == (TENANT, 1, 8)
    assert await policy.step() == {TENANT: 1}
    assert await policy.step() == {}
    async with transaction(signing.engine, TENANT) as conn:
        kept = await retention.get_retired_run(conn, TENANT, run.run_id)
        assert kept is not None
        assert (kept.head_hash, kept.events) == (head["hash"], 8)
        assert kept.head_signature is not None
        assert await verify_anchors(conn, TENANT, signing.keys, limit=10) == (1, None, None)
        assert {name for name in await erasure.count_rows(conn, TENANT) if FATES[name] is Fate.RUN} == set()
    assert (await signing.get(other)).run_id == other.run_id


async def test_one_process_at_a_time_deletes(signing: World, intruder: AsyncEngine) -> None:
    """Who comes second leaves it to the first."""
    await signing.whole()
    await tamper(intruder, _ENDED)
    policy = Retention(signing.engine, Policy(days=1))
    async with system_transaction(signing.engine) as conn:
        await conn.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('dalang retention', 0))"))
        assert await policy.step() == {}
    assert await policy.step() == {TENANT: 1}


async def test_a_tenant_is_erased_and_a_certificate_proves_it(signing: World, intruder: AsyncEngine) -> None:
    """Everything of theirs, nothing of others; the key alone checks the certificate, and anchors hold."""
    keys = signing.keys
    run, _ = await signing.whole()
    await tamper(intruder, _ENDED)
    theirs = await signing.run(tenant_id="other")
    async with transaction(signing.engine, TENANT) as conn:
        await make_anchor(conn, TENANT, keys)
        _, asking = await create_token(conn, TENANT, "ann", ["admin"])
        await create_token(conn, TENANT, "bob", ["viewer"])
        had = await erasure.count_rows(conn, TENANT)
    with pytest.raises(NoSigningKey):
        await erasure.erase_tenant(signing.engine, TENANT, "ann", Keyring(), kept_token=None, had=had)
    made = await erasure.erase_tenant(signing.engine, TENANT, "ann", keys, kept_token=asking.token_id, had=had)
    assert Keyring.of_public(keys.public_keys).check(made.certificate, made.signature) is SignatureState.VALID
    erased = made.certificate["erased"]
    assert {**erased, "api_tokens": 2} == {**had, "api_tokens": 2}
    assert (erased["run_events"], erased["execution_runs"], erased["api_tokens"]) == (8, 1, 1)
    assert made.certificate["kept"]["heads"] == 1
    async with transaction(signing.engine, TENANT) as conn:
        assert await erasure.count_rows(conn, TENANT) == {"api_tokens": 1}
        assert await erasure.last_erasure(conn, TENANT) == made
        assert await verify_anchors(conn, TENANT, keys, limit=10) == (1, None, None)
        left = await retention.get_retired_run(conn, TENANT, run.run_id)
        assert left is not None
        assert left.plan_name == ""
    assert (await signing.get(theirs)).run_id == theirs.run_id


async def test_what_goes_on_is_not_erased(signing: World) -> None:
    """Neither by the product nor by its function, which keeps what proves things, and is not the tenant's to call."""
    run = await signing.run()
    await signing.flush(run, begun())
    with pytest.raises(Conflict, match="1 runs go on"):
        await erasure.erase_tenant(signing.engine, TENANT, "ann", signing.keys, kept_token=None, had={})
    call = "SELECT dalang_erase_tenant(:tenant, ARRAY['{}'], NULL)"
    for tenant, table, why in ((TENANT, "plans", "has runs"), ("other", "retired_runs", "is kept")):
        with pytest.raises(DBAPIError, match=why):
            async with system_transaction(signing.engine) as conn:
                await conn.execute(text(call.format(table)), {"tenant": tenant})
    with pytest.raises(DBAPIError) as caught:
        async with transaction(signing.engine, TENANT) as conn:
            await conn.execute(text(call.format("plans")), {"tenant": TENANT})
    assert "permission denied" in str(caught.value)
    async with transaction(signing.engine, TENANT) as conn:
        assert (await conn.execute(select(metadata.tables["run_events"].c.seq))).all() != []
