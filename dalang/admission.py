"""Admission: who gets what is scarce, and in which order those who wait are served.

Theory of operation
    A *pool* is an amount of something (cpu, memory, gpu, licences, what a tenant may use at once); an *agent* offers
    capabilities and takes so many nodes at once. A :class:`Demand` says what one node needs of them; a granted demand
    is a :class:`Lease`, which is all of it or nothing, and lasts until it is released.

    Who waits is served in the order of the key it came with: its first part is the priority; among equal priorities
    the tenant that holds the fewest leases for its weight comes first; then the rest of the key (remaining path, age).
    What does not fit lets others pass, but keeps what it asks for to itself, so far as it is there: a node that needs
    two gpus is not starved by a stream of nodes that need one. A node that its own tenant's quota holds back keeps
    nothing from other tenants. Among the agents that could take a node the one with the least load relative to its
    capacity does, the first of equals.

    Only what is limited is asked for: a capability that no agent was given for, and a pool without a size, are
    unlimited, and a demand for nothing limited is no demand at all.

Plain data in and out; no clock. Rehearsals use it as it stands, and the grant pass over Postgres
(``store/leases.py``) loads it with what is held and who waits.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

AGING_MS = 60_000
"""So long a wait is worth one step of priority: what is less urgent is late, never starved."""
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
    agents: tuple[int, ...] = ()
    needs_agent: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted demand of a tenant; ``agent`` is the number of the agent that took it, or None."""

    demand: Demand
    agent: int | None
    tenant: str = ""


Group = tuple[str, Demand]
"""Those of one tenant with equal demands fit or do not fit together, so only the first of each group is looked at."""


class Admission:
    """Pools and agents, what of them is in use, and who waits.

    ``weights`` says how large a tenant's share is (default 1); ``quotas`` names the pools that belong to one tenant.
    """

    def __init__(
        self,
        pools: Mapping[str, float],
        agents: Sequence[Agent],
        weights: Mapping[str, float] | None = None,
        quotas: Iterable[str] = (),
    ) -> None:
        self.pools = dict(pools)
        self.agents = tuple(agents)
        self.weights = dict(weights or {})
        self.quotas = frozenset(quotas)
        self.used = dict.fromkeys(self.pools, 0.0)
        self.busy = [0] * len(self.agents)
        self.held: dict[str, int] = {}
        self._offers = [frozenset((agent.name, *agent.capabilities)) for agent in self.agents]
        self._limited = frozenset().union(*self._offers) if self._offers else frozenset()
        self._waiting: dict[Group, list[tuple[Any, Hashable]]] = {}
        self._gone: set[Hashable] = set()

    def empty(self) -> Admission:
        """Return the same pools and agents with nothing in use and nobody waiting."""
        return Admission(self.pools, self.agents, self.weights, self.quotas)

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

    def request(self, who: Hashable, order: tuple[Any, ...], demand: Demand, tenant: str = "") -> None:
        """Let ``who`` wait; smaller ``order`` is served first. :meth:`grants` says when it has its lease."""
        heappush(self._waiting.setdefault((tenant, demand), []), (order, who))

    def withdraw(self, who: Hashable) -> None:
        """``who`` waits no more."""
        self._gone.add(who)

    def hold(self, lease: Lease) -> None:
        """Take note of a lease that was granted before."""
        self._change(lease, 1)

    def release(self, lease: Lease) -> None:
        """Give back what a lease holds; a grant pass follows."""
        self._change(lease, -1)

    def grants(self) -> list[tuple[Hashable, Lease]]:
        """Grant what can be granted now, in order, and return it."""
        groups = list(self._waiting)
        heads = [self._head(group, at) for at, group in enumerate(groups) if self._waiting[group]]
        heapify(heads)
        granted: list[tuple[Hashable, Lease]] = []
        reserved: dict[str | int, float] = {}
        while heads:
            _, load, _, at = heappop(heads)
            group = groups[at]
            queue = self._waiting[group]
            tenant, demand = group
            who = queue[0][-1]
            if who in self._gone:
                self._gone.discard(who)
            elif load != self._load(tenant):  # it was granted something since this was put here
                heappush(heads, self._head(group, at))
                continue
            else:
                lease = self._fit(tenant, demand, reserved)
                if lease is None:
                    self._reserve(demand, reserved)
                    continue
                self._change(lease, 1)
                granted.append((who, lease))
            heappop(queue)
            if queue:
                heappush(heads, self._head(group, at))
        return granted

    def short(self, demand: Demand) -> list[str]:
        """Return the names of what a demand that was not granted waits for."""
        names = [f"pool {name}" for name in self._short_pools(demand)]
        if demand.needs_agent and all(self.busy[at] >= self.agents[at].capacity for at in demand.agents):
            names += [f"agent {self.agents[at].name}" for at in demand.agents]
        # Everything is there, but kept for one that comes before.
        return names or self.names(demand)

    def names(self, demand: Demand) -> list[str]:
        """Return the names of all that a demand could take from."""
        return [f"pool {name}" for name, _ in demand.pools] + [f"agent {self.agents[at].name}" for at in demand.agents]

    def _head(self, group: Group, at: int) -> tuple[Any, float, Any, int]:
        order, _ = self._waiting[group][0]
        return order[0], self._load(group[0]), order[1:], at

    def _load(self, tenant: str) -> float:
        return self.held.get(tenant, 0) / self.weights.get(tenant, 1.0)

    def _short_pools(self, demand: Demand) -> list[str]:
        return [name for name, amount in demand.pools if self.used[name] + amount > self.pools[name] + _NOTHING]

    def _fit(self, tenant: str, demand: Demand, reserved: Mapping[str | int, float]) -> Lease | None:
        for name, amount in demand.pools:
            if self.used[name] + reserved.get(name, 0) + amount > self.pools[name] + _NOTHING:
                return None
        agent = self._agent(demand, reserved)
        return None if demand.needs_agent and agent is None else Lease(demand, agent, tenant)

    def _agent(self, demand: Demand, reserved: Mapping[str | int, float]) -> int | None:
        """Return the least loaded agent with a place that nobody keeps, or None."""
        free = [at for at in demand.agents if self.busy[at] + reserved.get(at, 0) < self.agents[at].capacity]
        return min(free, key=lambda at: self.busy[at] / self.agents[at].capacity, default=None)

    def _reserve(self, demand: Demand, reserved: dict[str | int, float]) -> None:
        """Keep for one that waits what it asks for; if its own quota is short, only that: it can use nothing else."""
        own = [name for name in self._short_pools(demand) if name in self.quotas]
        for name, amount in demand.pools:
            if not own or name in own:
                reserved[name] = reserved.get(name, 0) + amount
        agent = None if own else self._agent(demand, reserved)
        if agent is not None:
            reserved[agent] = reserved.get(agent, 0) + 1

    def _change(self, lease: Lease, sign: int) -> None:
        for name, amount in lease.demand.pools:
            self.used[name] += sign * amount
        if lease.agent is not None:
            self.busy[lease.agent] += sign
        self.held[lease.tenant] = self.held.get(lease.tenant, 0) + sign
