"""Admission: who gets what is scarce, and in which order those who wait are served.

Theory of operation
    A *pool* is an amount of something (cpu, memory, gpu, licences); an *agent* offers capabilities and takes so many
    nodes at once. A :class:`Demand` says what one node needs of them; a granted demand is a :class:`Lease`, which is
    all of it or nothing, and lasts until it is released.

    Who waits is served in the order of the key it came with (priority, longest remaining path, age). What does not fit
    lets others pass, but keeps all that it asks for itself: a node that needs two gpus is not starved by a stream of
    nodes that need one. Among the agents that could take a node the one with the least load relative to its capacity
    does, the first of equals.

    Only what is limited is asked for: a capability that no agent was given for, and a pool without a size, are
    unlimited, and a demand for nothing limited is no demand at all.

Plain data in and out; no clock. Rehearsals use it as it stands.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

_NOTHING = 1e-9
"""Amounts are sums of fractions: so little missing is nothing."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Takes ``capacity`` nodes at once, of those whose limited capabilities it offers; its name is one of them."""

    name: str
    capacity: int
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Demand:
    """What a node needs of limited things: amounts of pools, and an agent out of ``agents`` (by number) or none."""

    pools: tuple[tuple[str, float], ...]
    agents: tuple[int, ...]
    needs_agent: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted demand; ``agent`` is the number of the agent that took it, or None."""

    demand: Demand
    agent: int | None


class Admission:
    """Pools and agents, what of them is in use, and who waits."""

    def __init__(self, pools: Mapping[str, float], agents: Sequence[Agent]) -> None:
        self.pools = dict(pools)
        self.agents = tuple(agents)
        self.used = dict.fromkeys(self.pools, 0.0)
        self.busy = [0] * len(self.agents)
        self._offers = [frozenset((agent.name, *agent.capabilities)) for agent in self.agents]
        self._limited = frozenset().union(*self._offers) if self._offers else frozenset()
        self._waiting: dict[Demand, list[tuple[Any, Hashable]]] = {}
        self._gone: set[Hashable] = set()

    def empty(self) -> Admission:
        """Return the same pools and agents with nothing in use and nobody waiting."""
        return Admission(self.pools, self.agents)

    def demand(self, capabilities: Iterable[str], amounts: Mapping[str, float]) -> Demand | None:
        """Return the demand for limited things among these, or None when there are none."""
        pools = tuple((name, amount) for name, amount in amounts.items() if amount > 0 and name in self.pools)
        needed = [name for name in capabilities if name in self._limited]
        able = tuple(at for at, offers in enumerate(self._offers) if needed and offers.issuperset(needed))
        return Demand(pools, able, bool(needed)) if pools or needed else None

    def never(self, demand: Demand) -> str | None:
        """Return why the demand can never be granted, or None."""
        for name, amount in demand.pools:
            if amount > self.pools[name] + _NOTHING:
                return f"it needs {amount:g} of the pool {name}, which has {self.pools[name]:g} in all"
        if demand.needs_agent and not any(self.agents[at].capacity for at in demand.agents):
            return "no agent has all the capabilities that it requires"
        return None

    def request(self, who: Hashable, order: Any, demand: Demand) -> None:
        """Let ``who`` wait; smaller ``order`` is served first. :meth:`grants` says when it has its lease."""
        heappush(self._waiting.setdefault(demand, []), (order, who))

    def withdraw(self, who: Hashable) -> None:
        """``who`` waits no more."""
        self._gone.add(who)

    def release(self, lease: Lease) -> None:
        """Give back what a lease holds; a grant pass follows."""
        for name, amount in lease.demand.pools:
            self.used[name] -= amount
        if lease.agent is not None:
            self.busy[lease.agent] -= 1

    def grants(self) -> list[tuple[Hashable, Lease]]:
        """Grant what can be granted now, in order, and return it."""
        # Those with equal demands fit or do not fit together, so only the first of each kind is looked at.
        heads = [(queue[0], at, demand) for at, demand in enumerate(self._waiting) if (queue := self._waiting[demand])]
        heapify(heads)
        granted: list[tuple[Hashable, Lease]] = []
        reserved: set[str | int] = set()
        while heads:
            (_, who), at, demand = heappop(heads)
            queue = self._waiting[demand]
            if who in self._gone:
                self._gone.discard(who)
            else:
                lease = self._take(demand, reserved)
                if lease is None:
                    reserved.update(name for name, _ in demand.pools)
                    reserved.update(demand.agents)
                    continue
                granted.append((who, lease))
            heappop(queue)
            if queue:
                heappush(heads, (queue[0], at, demand))
        return granted

    def short(self, demand: Demand) -> list[str]:
        """Return the names of what a demand that was not granted waits for."""
        names = [
            f"pool {name}" for name, amount in demand.pools if self.used[name] + amount > self.pools[name] + _NOTHING
        ]
        if demand.needs_agent and all(self.busy[at] >= self.agents[at].capacity for at in demand.agents):
            names += [f"agent {self.agents[at].name}" for at in demand.agents]
        # Everything is there, but kept for one that comes before.
        return names or self.names(demand)

    def names(self, demand: Demand) -> list[str]:
        """Return the names of all that a demand could take from."""
        return [f"pool {name}" for name, _ in demand.pools] + [f"agent {self.agents[at].name}" for at in demand.agents]

    def _take(self, demand: Demand, reserved: set[str | int]) -> Lease | None:
        for name, amount in demand.pools:
            if name in reserved or self.used[name] + amount > self.pools[name] + _NOTHING:
                return None
        agent = None
        if demand.needs_agent:
            free = [at for at in demand.agents if at not in reserved and self.busy[at] < self.agents[at].capacity]
            if not free:
                return None
            agent = min(free, key=lambda at: self.busy[at] / self.agents[at].capacity)
            self.busy[agent] += 1
        for name, amount in demand.pools:
            self.used[name] += amount
        return Lease(demand, agent)
