"""The registry of agents: status and load from leases and heartbeats, own ones before shared ones."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid5

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.errors import Conflict
from dalang.store import agents
from dalang.store.agents import Agent, AgentStatus, NewAgent, statistics
from dalang.store.engine import system_transaction
from dalang.store.leases import Answer, Ask, Asker
from tests.store.test_leases import RUN, Site


def new(agent_id: str, tenant: str = "acme", places: int = 2, **changes: Any) -> NewAgent:
    given: dict[str, Any] = {
        "tenant_id": tenant,
        "agent_id": agent_id,
        "kind": "poll",
        "name": agent_id,
        "capabilities": {"coding": 1.0},
        "max_concurrent_tasks": places,
        "registered_by": "test",
        "labels": {},
        "endpoint": {},
    }
    return NewAgent(**{**given, **changes})


class Registry(Site):
    """A registry, and nodes that ask for agents."""

    async def register(self, agent_id: str, **changes: Any) -> Agent:
        async with system_transaction(self.engine) as conn:
            return await agents.register_agent(conn, new(agent_id, **changes))

    async def get(self, agent_id: str, tenant: str = "acme") -> Agent:
        async with system_transaction(self.engine) as conn:
            found = await agents.get_agent(conn, tenant, agent_id)
        assert found is not None
        return found

    async def all(self, tenant: str = "acme") -> list[Agent]:
        async with system_transaction(self.engine) as conn:
            return await agents.list_agents(conn, tenant)

    async def ask_again(self, node: str, ask: int) -> list[Answer]:
        one = Ask(uuid5(RUN, f"{node}:{ask}"), node, ask, capabilities=("coding",))
        return await self.leasing.ask(Asker("acme", RUN, "run"), [one])

    async def give_back(self, node: str, ask: int) -> None:
        await self.leasing.release("acme", [uuid5(RUN, f"{node}:{ask}")])

    async def silence(self, agent_id: str, seconds: int) -> None:
        statement = text("UPDATE agents SET heartbeat_at = now() - make_interval(secs => :s) WHERE agent_id = :a")
        async with system_transaction(self.engine) as conn:
            await conn.execute(statement, {"s": seconds, "a": agent_id})


@pytest.fixture
def registry(engine: AsyncEngine) -> Registry:
    return Registry(engine)


async def test_status_and_load_follow_what_an_agent_holds(registry: Registry) -> None:
    """Idle, Working as soon as it holds a lease, and Idle when it gave it back."""
    assert (await registry.register("ada")).status is AgentStatus.IDLE
    await registry.ask("a", capabilities=("coding",))
    ada = await registry.get("ada")
    assert (ada.status, ada.active, ada.load) == (AgentStatus.WORKING, 1, 0.5)
    await registry.release("a")
    assert (await registry.get("ada")).status is AgentStatus.IDLE


async def test_an_agent_that_is_silent_is_offline_and_gets_nothing_until_it_is_back(registry: Registry) -> None:
    """Its heartbeat says that it was away, so that somebody looks who waits for it."""
    await registry.register("ada", heartbeat_seconds=10)
    await registry.silence("ada", 11)
    assert (await registry.get("ada")).status is AgentStatus.OFFLINE
    [answer] = await registry.ask("a", capabilities=("coding",))
    assert (answer.state, answer.short) == ("WAITING", ("an agent that is there",))
    async with system_transaction(registry.engine) as conn:
        assert await agents.heartbeat(conn, "acme", ["ada"]) == ["ada"]
    async with system_transaction(registry.engine) as conn:
        assert await agents.heartbeat(conn, "acme", ["ada"]) == []
    await registry.leasing.grant()
    assert await registry.states() == {"a": "GRANTED"}


async def test_a_draining_agent_gets_nothing_and_registering_again_does_not_end_that(registry: Registry) -> None:
    """Only an operator does."""
    await registry.register("ada")
    async with system_transaction(registry.engine) as conn:
        assert await agents.drain_agent(conn, "acme", "ada")
    assert (await registry.register("ada")).status is AgentStatus.DRAINING
    assert [one.state for one in await registry.ask("a", capabilities=("coding",))] == ["WAITING"]
    async with system_transaction(registry.engine) as conn:
        assert await agents.drain_agent(conn, "acme", "ada", False)
    await registry.leasing.grant()
    assert (await registry.get("ada")).status is AgentStatus.WORKING


async def test_the_one_with_the_least_load_then_the_most_proficient(registry: Registry) -> None:
    """All capabilities are needed; what one holds already counts by its places."""
    await registry.register("ada", capabilities={"coding": 0.9, "testing": 0.9})
    await registry.register("bob", capabilities={"coding": 0.5}, places=4)
    await registry.register("eve", capabilities={"coding": 0.7}, places=4)
    asked = [(await registry.ask(name, capabilities=("coding",)))[0].agent_id for name in "abcd"]
    assert asked == ["ada", "eve", "bob", "eve"]
    [both] = await registry.ask("e", capabilities=("coding", "testing"))
    assert both.agent_id == "ada"


async def test_an_own_agent_hides_the_shared_one_of_the_same_id(registry: Registry) -> None:
    """In the list, in what is granted, and in whose load it is."""
    await registry.register("ada", tenant="", places=1)
    await registry.register("ada", places=1)
    assert [one.tenant_id for one in await registry.all()] == ["acme"]
    states = [one.state for one in await registry.ask("a", "b", capabilities=("coding",))]
    assert sorted(states) == ["GRANTED", "WAITING"]
    assert (await registry.get("ada")).active == 1
    [other] = await registry.ask("a", tenant="globex", capabilities=("coding",))
    assert other.state == "GRANTED"
    assert (await registry.get("ada", "globex")).active == 1


async def test_statistics_are_those_of_the_seed(registry: Registry) -> None:
    """And tell of those that are away or draining; the load is that of those that are there."""
    assert statistics([]).average_load == 0
    for name in ("ada", "bob", "eve", "sam"):
        await registry.register(name, heartbeat_seconds=10, capabilities={name: 1.0})
    await registry.ask("a", capabilities=("ada",))
    await registry.silence("bob", 60)
    async with system_transaction(registry.engine) as conn:
        await agents.drain_agent(conn, "acme", "eve")
    found = statistics(await registry.all())
    assert found == agents.AgentStatistics(4, 1, 1, 1, 1, pytest.approx(0.5 / 3))


async def test_there_is_an_end_to_how_many_register(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each grant pass reads them all. One that is known registers again."""
    monkeypatch.setattr(agents, "MAX_AGENTS", 2)
    await registry.register("ada")
    await registry.register("bob")
    with pytest.raises(Conflict):
        await registry.register("eve")
    await registry.register("bob", places=7)
    assert (await registry.get("bob")).max_concurrent_tasks == 7


async def test_agents_that_register_and_beat_at_once(registry: Registry) -> None:
    """Whatever the order, nothing is locked out."""
    await asyncio.gather(*(registry.register(f"a{at % 5}") for at in range(25)))

    async def beat(names: list[str]) -> None:
        async with system_transaction(registry.engine) as conn:
            await agents.heartbeat(conn, "acme", names)

    names = [f"a{at}" for at in range(5)]
    await asyncio.gather(*(beat(names[::step]) for step in (1, -1) * 10))


async def test_who_failed_is_asked_again_only_if_nobody_else_has_a_place(registry: Registry) -> None:
    """A node that asks again goes to another agent, if there is one that is free."""
    await registry.register("ada")
    await registry.register("bob", places=1, capabilities={"coding": 0.5})
    order = []
    for ask in (1, 2, 3):
        [answer] = await registry.ask_again("a", ask)
        order.append(answer.agent_id)
        await registry.give_back("a", ask)
    assert order == ["ada", "bob", "ada"]
    [other] = await registry.ask_again("b", 1)
    assert other.agent_id == "ada"
    await registry.give_back("b", 1)
    await registry.ask_again("c", 1)
    await registry.ask_again("d", 1)
    [again] = await registry.ask_again("b", 2)
    assert (again.state, again.agent_id) == ("GRANTED", "ada")
