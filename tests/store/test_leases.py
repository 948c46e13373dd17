"""Leases: asked for, granted in order, released once, and never more than there is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.leasing import Leasing
from dalang.store import leases
from dalang.store.admission_tables import agents, resource_pools, tenant_quotas
from dalang.store.engine import system_transaction
from dalang.store.leases import Answer, Ask, Asker
from dalang.store.pools import limited_names
from dalang.store.utilization import waiting
from tests.store.world import World

RUN = UUID(int=1)


class Site:
    """A database with limits, and nodes that ask."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.leasing = Leasing(engine)

    async def pool(self, name: str, size: float | None = None, tenant: str = "", **rate: float) -> None:
        row = {"tenant_id": tenant, "name": name, "size": size, "updated_by": "test", **rate}
        await self._add(resource_pools, row)

    async def quota(self, tenant: str, **lines: Any) -> None:
        await self._add(tenant_quotas, {"tenant_id": tenant, "updated_by": "test", **lines})

    async def agent(self, name: str, places: int, tenant: str = "", **capabilities: float) -> None:
        row = {"tenant_id": tenant, "agent_id": name, "kind": "local", "name": name, "registered_by": "test"}
        await self._add(agents, {**row, "max_concurrent_tasks": places, "capabilities": capabilities})

    async def ask(self, *nodes: str, tenant: str = "acme", run: UUID = RUN, **need: Any) -> list[Answer]:
        asks = [Ask(uuid5(run, f"{tenant}:{node}"), node, 0, **need) for node in nodes]
        return await self.leasing.ask(Asker(tenant, run, f"run-{run}"), asks)

    async def release(self, *nodes: str, tenant: str = "acme", run: UUID = RUN) -> None:
        await self.leasing.release(tenant, [uuid5(run, f"{tenant}:{node}") for node in nodes])

    async def states(self) -> Mapping[str, str]:
        async with system_transaction(self.engine) as conn:
            rows = await conn.execute(text("SELECT node_id, state FROM leases"))
            return {row.node_id: row.state for row in rows}

    async def _add(self, table: Any, row: Mapping[str, Any]) -> None:
        async with system_transaction(self.engine) as conn:
            await conn.execute(insert(table).values(row))


@pytest.fixture
def site(engine: AsyncEngine) -> Iterator[Site]:
    made = Site(engine)
    yield made
    made.leasing.close()


async def test_what_is_not_limited_is_granted_at_once(site: Site) -> None:
    (answer,) = await site.ask("a", amounts={"cpu": 64}, capabilities=("nobody-offers-this",))
    assert (answer.state, answer.agent_id) == ("GRANTED", None)


async def test_a_pool_is_full_until_something_is_released(site: Site) -> None:
    await site.pool("cpu", 2)
    first = await site.ask("a", "b", "c", amounts={"cpu": 1})
    assert [one.state for one in first] == ["GRANTED", "GRANTED", "WAITING"]
    assert first[2].short == ("pool cpu",)
    await site.release("a")
    assert await site.states() == {"a": "RELEASED", "b": "GRANTED", "c": "GRANTED"}
    async with system_transaction(site.engine) as conn:
        assert [answer.node_id for _, _, answer in await leases.untold(conn)] == ["c"]


async def test_asking_and_releasing_again_changes_nothing(site: Site) -> None:
    await site.pool("cpu", 1)
    for _ in range(3):
        (answer,) = await site.ask("a", amounts={"cpu": 1})
        assert answer.state == "GRANTED"
    for _ in range(3):
        await site.release("a")
    (again,) = await site.ask("b", amounts={"cpu": 1})
    assert again.state == "GRANTED"
    (late,) = await site.ask("a", amounts={"cpu": 1})
    assert late.state == "RELEASED", "what was given back is not granted again by an old ask"


async def test_more_than_the_pool_is_refused_with_the_reason(site: Site) -> None:
    await site.pool("gpu", 1)
    (answer,) = await site.ask("a", amounts={"gpu": 2})
    assert (answer.state, answer.reason) == ("REFUSED", "it needs 2 of pool gpu, which has 1 in all")


async def test_each_key_of_a_pool_is_a_pool(site: Site) -> None:
    await site.pool("db", 1)
    answers = [
        (await site.ask(node, amounts={f"db/{key}": 1}))[0] for node, key in (("a", "x"), ("b", "y"), ("c", "x"))
    ]
    assert [one.state for one in answers] == ["GRANTED", "GRANTED", "WAITING"]
    assert answers[2].short == ("pool db/x",)


async def test_a_tenants_own_pool_comes_before_the_shared_one(site: Site) -> None:
    await site.pool("cpu", 1)
    await site.pool("cpu", 5, tenant="acme")
    assert [one.state for one in await site.ask("a", "b", amounts={"cpu": 2})] == ["GRANTED", "GRANTED"]
    (other,) = await site.ask("z", tenant="zeta", amounts={"cpu": 2})
    assert other.state == "REFUSED"


async def test_quotas_hold_back_their_tenant_and_nobody_else(site: Site) -> None:
    await site.pool("cpu", 100)
    await site.quota("acme", max_nodes=1, cpu_cores=4)
    first = await site.ask("a", "b", amounts={"cpu": 2})
    assert [(one.state, one.short) for one in first] == [("GRANTED", ()), ("WAITING", ("quota nodes",))]
    (other,) = await site.ask("z", tenant="zeta", amounts={"cpu": 90})
    assert other.state == "GRANTED"


async def test_a_large_request_is_not_overtaken_for_ever_by_small_ones(site: Site) -> None:
    await site.pool("gpu", 4)
    await site.ask("s0", "s1", "s2", "s3", amounts={"gpu": 1})
    (large,) = await site.ask("large", amounts={"gpu": 4})
    assert large.state == "WAITING"
    waiting = [(await site.ask(f"s{at}", amounts={"gpu": 1}))[0].state for at in range(4, 8)]
    assert waiting == ["WAITING"] * 4
    await site.release("s0", "s1", "s2", "s3")
    states = await site.states()
    assert states["large"] == "GRANTED"
    assert {states[f"s{at}"] for at in range(4, 8)} == {"WAITING"}


async def test_tenants_take_turns_by_weight(site: Site) -> None:
    await site.pool("cpu", 1)
    await site.quota("big", weight=2.0)
    await site.ask("holds", tenant="other", amounts={"cpu": 1})
    for tenant in ("big", "small"):
        run = uuid4()
        await site.ask(*[f"{tenant}{at}" for at in range(9)], tenant=tenant, run=run, amounts={"cpu": 1})
    async with system_transaction(site.engine) as conn:
        await conn.execute(text("UPDATE resource_pools SET size = 7 WHERE name = 'cpu'"))
    await site.leasing.grant()
    granted = [node for node, state in (await site.states()).items() if state == "GRANTED"]
    assert sorted(node[:3] for node in granted) == ["big"] * 4 + ["hol"] + ["sma"] * 2


async def test_priority_first_and_age_makes_up_for_it(site: Site) -> None:
    await site.pool("cpu", 1)
    await site.ask("holds", amounts={"cpu": 1})
    await site.ask("low", amounts={"cpu": 1}, priority=-1)
    await site.ask("high", amounts={"cpu": 1}, priority=2)
    await site.release("holds")
    assert (await site.states())["high"] == "GRANTED"
    await site.ask("higher", amounts={"cpu": 1}, priority=2)
    async with system_transaction(site.engine) as conn:
        await conn.execute(text("UPDATE leases SET asked_at = now() - interval '4 minutes' WHERE node_id = 'low'"))
    await site.release("high")
    assert (await site.states())["low"] == "GRANTED"


async def test_the_least_loaded_agent_with_all_capabilities(site: Site) -> None:
    await site.agent("ann", 4, code=0.9, review=0.5)
    await site.agent("bob", 2, code=0.5)
    await site.agent("eve", 2, tenant="other", code=1.0)
    found = [(await site.ask(f"n{at}", capabilities=("code",)))[0].agent_id for at in range(6)]
    assert sorted(found) == ["ann"] * 4 + ["bob"] * 2
    assert found[:2] == ["ann", "bob"], "the more proficient of equals first, then the one with less to do"
    (late,) = await site.ask("late", capabilities=("code",))
    assert (late.state, late.short) == ("WAITING", ("an agent",))
    await site.release("n1")
    async with system_transaction(site.engine) as conn:
        assert [(one.node_id, one.agent_id) for _, _, one in await leases.untold(conn)] == [("late", "bob")]


async def test_an_agent_that_is_silent_or_draining_gets_nothing(site: Site) -> None:
    await site.agent("ann", 4, code=1)
    await site.agent("bob", 4, code=1)
    async with system_transaction(site.engine) as conn:
        await conn.execute(text("UPDATE agents SET draining = true WHERE agent_id = 'ann'"))
        silent = "UPDATE agents SET heartbeat_seconds = 5, heartbeat_at = now() - interval '6 s' WHERE agent_id = 'bob'"
        await conn.execute(text(silent))
    (answer,) = await site.ask("a", capabilities=("code",))
    assert (answer.state, answer.short) == ("WAITING", ("an agent that is there",))
    async with system_transaction(site.engine) as conn:
        await conn.execute(text("UPDATE agents SET heartbeat_at = now() WHERE agent_id = 'bob'"))
    await site.leasing.grant()
    assert (await site.ask("a", capabilities=("code",)))[0].agent_id == "bob"


async def test_a_sticky_run_stays_with_its_agent(site: Site) -> None:
    await site.agent("ann", 2, code=1)
    await site.agent("bob", 2, code=1)
    first = (await site.ask("a", capabilities=("code",), sticky=True))[0].agent_id
    assert (await site.ask("b", capabilities=("code",), sticky=True))[0].agent_id == first
    (third,) = await site.ask("c", capabilities=("code",), sticky=True)
    assert third.state == "WAITING"


async def test_a_rate_lets_through_what_its_bucket_holds_and_more_later(site: Site) -> None:
    await site.pool("calls", rate=20.0, burst=2.0)
    states = [one.state for one in await site.ask("a", "b", "c", amounts={"calls": 1})]
    assert states == ["GRANTED", "GRANTED", "WAITING"]
    await site.release("a", "b")  # of a rate nothing comes back
    async with asyncio.timeout(5):
        while (await site.states())["c"] != "GRANTED":
            await asyncio.sleep(0.01)
    (never,) = await site.ask("d", amounts={"calls": 3})
    assert never.state == "REFUSED"


async def test_a_run_that_is_gone_gives_back_what_it_waits_for_and_later_what_it_holds(site: Site) -> None:
    await site.pool("cpu", 1)
    run = (await World(site.engine).run()).run_id
    await site.ask("a", "b", run=run, amounts={"cpu": 1}, lasts_ms=60_000)
    async with system_transaction(site.engine) as conn:
        assert await leases.reap(conn) == 0, "the run is under way"
        await conn.execute(text("UPDATE execution_runs SET status = 'FAILED', completed_at = now()"))
        assert await leases.reap(conn) == 1
        await conn.execute(text("UPDATE leases SET granted_at = now() - interval '2 minutes' WHERE state = 'GRANTED'"))
        assert await leases.reap(conn) == 1
    assert sorted((await site.states()).values()) == ["RELEASED", "WITHDRAWN"]


async def test_positions_say_who_waits_where_and_for_what(site: Site) -> None:
    await site.pool("cpu", 1)
    await site.ask("a", "b", "c", amounts={"cpu": 1})
    async with system_transaction(site.engine) as conn:
        found = await waiting(conn, "acme", run_id=RUN)
    assert [(one.position, one.short) for one in found] == [(1, ("pool cpu",)), (2, ("pool cpu",))]


async def test_a_grant_pass_waits_for_nobody_who_gives_up(site: Site) -> None:
    """Two that lock rows in opposite order would wait for each other: the pass leaves out what is being ended."""
    await site.pool("cpu", 2)
    await site.ask("holds", amounts={"cpu": 2})
    await site.ask("a", "b", amounts={"cpu": 1})
    ids = {node: uuid5(RUN, f"acme:{node}") for node in ("holds", "a", "b")}
    async with system_transaction(site.engine) as conn:
        await leases.release(conn, [("acme", ids["holds"])])
    async with system_transaction(site.engine) as conn:
        await leases.release(conn, [("acme", ids["b"])])
        await asyncio.wait_for(site.leasing.grant(), 10)
        assert (await site.states())["a"] == "GRANTED"
        await leases.release(conn, [("acme", ids["a"])])
    assert await site.states() == {"holds": "RELEASED", "a": "RELEASED", "b": "WITHDRAWN"}


async def test_nothing_is_ever_over_its_limit(site: Site) -> None:
    """Many ask, release, crash and give up at once, over several connections; the sums are looked at all the while."""
    await site.pool("cpu", 5)
    await site.pool("db", 2)
    await site.quota("t0", max_nodes=3)
    await site.agent("ann", 2, code=1)
    rnd, over = random.Random(7), list[str]()
    shapes: list[dict[str, Any]] = [
        {"amounts": {"cpu": 2}},
        {"amounts": {"cpu": 1, "db/x": 1}},
        {"amounts": {"db/x": 1}},
        {"amounts": {"cpu": 1}, "capabilities": ("code",)},
    ]
    done = asyncio.Event()
    sites = [Site(site.engine) for _ in range(3)]

    async def one(at: int) -> None:
        tenant, run, own = f"t{at % 3}", uuid4(), sites[at % 3]
        for step in range(6):
            node = f"n{at}-{step}"
            call = asyncio.create_task(own.ask(node, tenant=tenant, run=run, **rnd.choice(shapes)))
            if rnd.random() < 0.2:  # killed in the middle; whoever comes after asks again
                await asyncio.sleep(rnd.random() * 0.01)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            else:
                await call
            await asyncio.sleep(rnd.random() * 0.01)
            for _ in range(rnd.randint(1, 2)):
                await own.release(node, tenant=tenant, run=run)

    async def watch() -> None:
        query = text(
            "SELECT coalesce(sum((amounts->>'cpu')::float), 0) AS cpu,"
            " coalesce(sum((amounts->>'db/x')::float), 0) AS db,"
            " count(*) FILTER (WHERE tenant_id = 't0') AS t0,"
            " count(*) FILTER (WHERE agent_id = 'ann') AS ann"
            " FROM leases WHERE state = 'GRANTED'"
        )
        while not done.is_set():
            async with system_transaction(site.engine) as conn:
                row = (await conn.execute(query)).one()
            if row.cpu > 5 or row.db > 2 or row.t0 > 3 or row.ann > 2:
                over.append(str(row))

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(one(at) for at in range(30)))
    done.set()
    await watcher
    assert over == []
    assert set((await site.states()).values()) <= {"RELEASED", "WITHDRAWN"}


async def test_what_is_limited_for_a_tenant(site: Site) -> None:
    """Its own pools and agents and those of everybody; lines of its own quota; nothing of others."""
    for tenant, name in (("acme", "own"), ("", "shared"), ("zeta", "other")):
        await site.pool(name, 1, tenant=tenant)
        await site.agent(f"{name}-agent", 1, tenant=tenant, **{name: 1.0})
    await site.quota("acme", max_nodes=3, memory_mb=512)
    await site.quota("zeta", cpu_cores=1)
    names = ["own", "own-agent", "shared", "shared-agent"]
    async with system_transaction(site.engine) as conn:
        found = await limited_names(conn, "acme")
        nobody = await limited_names(conn, "nobody")
    assert found == sorted(["*", "memory", "own", "shared", *(f"capability:{name}" for name in names)])
    assert nobody == ["capability:shared", "capability:shared-agent", "shared"]
