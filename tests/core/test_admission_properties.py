"""Admission over random pools, agents, quotas and tenants: never too much, never idle for nothing, never for ever."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.admission import Admission, Agent, Demand, Lease
from tests.effort import tries

RANDOM = st.randoms(use_true_random=False)
TENANTS = ("a", "b", "c")
EPSILON = 1e-6


@dataclass
class Site:
    """An admission with what a test remembers of it by itself."""

    rnd: Random
    admission: Admission
    waiting: dict[int, tuple[tuple[Any, ...], Demand, str]] = field(default_factory=dict)
    held: dict[int, Lease] = field(default_factory=dict)
    asked: int = 0

    @classmethod
    def drawn(cls, rnd: Random) -> Site:
        """A site with up to three pools, three agents, and a quota or two."""
        pools = {name: float(rnd.randint(1, 6)) for name in ("cpu", "gpu", "db")[: rnd.randint(1, 3)]}
        quotas = {f"quota {tenant}": float(rnd.randint(1, 4)) for tenant in TENANTS if rnd.random() < 0.3}
        skills = ("code", "test")
        agents = [
            Agent(f"agent{at}", rnd.randint(1, 3), tuple(rnd.sample(skills, rnd.randint(1, 2))))
            for at in range(rnd.randint(0, 3))
        ]
        weights = {tenant: rnd.choice((0.5, 1.0, 2.0)) for tenant in TENANTS}
        return cls(rnd, Admission({**pools, **quotas}, agents, weights, quotas=quotas))

    def ask(self, tenant: str | None = None, priority: int | None = None) -> None:
        """Let somebody wait for something that could be had."""
        rnd, of = self.rnd, self.admission
        tenant = tenant or rnd.choice(TENANTS)
        names = [name for name in of.pools if name not in of.quotas and rnd.random() < 0.6]
        amounts = {name: float(rnd.randint(1, int(of.pools[name]))) for name in names}
        if f"quota {tenant}" in of.pools:
            amounts[f"quota {tenant}"] = 1.0
        demand = of.demand([rnd.choice(("code", "test"))] if rnd.random() < 0.5 else [], amounts)
        if demand is not None and of.never(demand) is None:
            self.wait_for(demand, tenant, rnd.randint(0, 2) if priority is None else priority)

    def wait_for(self, demand: Demand, tenant: str, priority: int) -> None:
        """Let somebody wait."""
        of = self.admission
        self.asked += 1
        order = (-priority, self.asked)
        self.waiting[self.asked] = (order, demand, tenant)
        of.request(self.asked, order, demand, tenant)

    def grant(self) -> list[int]:
        """Run a pass."""
        granted = []
        for who, lease in self.admission.grants():
            assert isinstance(who, int)
            _, demand, tenant = self.waiting.pop(who)
            assert (lease.demand, lease.tenant) == (demand, tenant)
            assert not demand.needs_agent or lease.agent in demand.agents
            self.held[who] = lease
            granted.append(who)
        return granted

    def release(self, who: int) -> None:
        """Give back."""
        self.admission.release(self.held.pop(who))

    def check(self) -> None:
        """What is in use is the sum of what is held, and never more than there is."""
        used: Counter[str] = Counter()
        busy: Counter[int] = Counter()
        for lease in self.held.values():
            for name, amount in lease.demand.pools:
                used[name] += amount  # type: ignore[assignment]
            if lease.agent is not None:
                busy[lease.agent] += 1
        for name, size in self.admission.pools.items():
            assert abs(used[name] - self.admission.used[name]) < EPSILON
            assert used[name] <= size + EPSILON
        for at, agent in enumerate(self.admission.agents):
            assert busy[at] == self.admission.busy[at] <= agent.capacity

    def fits(self, demand: Demand) -> bool:
        """Whether a demand could be granted if nobody else waited."""
        of = self.admission
        pools = all(of.used[name] + amount <= of.pools[name] + EPSILON for name, amount in demand.pools)
        agents = any(of.busy[at] < of.agents[at].capacity for at in demand.agents)
        return pools and (agents or not demand.needs_agent)


@given(rnd=RANDOM)
@settings(max_examples=tries(120), deadline=None)
def test_never_more_than_there_is_and_nothing_idle_for_nobody(rnd: Random) -> None:
    """Limits hold after every pass; and if anybody waits, either somebody works or it was granted."""
    site = Site.drawn(rnd)
    for _ in range(rnd.randint(5, 60)):
        choice = rnd.random()
        if choice < 0.5:
            site.ask()
        elif choice < 0.8 and site.held:
            site.release(rnd.choice(sorted(site.held)))
        elif choice < 0.9 and site.waiting:
            gone = rnd.choice(sorted(site.waiting))
            del site.waiting[gone]
            site.admission.withdraw(gone)
        else:
            site.grant()
            assert not site.waiting or site.held, "there is room, and nobody has anything"
        site.check()


@given(rnd=RANDOM)
@settings(max_examples=tries(120), deadline=None)
def test_the_first_that_waits_gets_what_fits(rnd: Random) -> None:
    """Work conservation: whoever is first of all is never left waiting with everything there that it needs."""
    site = Site.drawn(rnd)
    for _ in range(rnd.randint(5, 40)):
        site.ask(tenant="a")
        site.grant()
        if site.held and rnd.random() < 0.4:
            site.release(rnd.choice(sorted(site.held)))
            site.grant()
        if site.waiting:
            first = min(site.waiting, key=lambda who: site.waiting[who][0])
            assert not site.fits(site.waiting[first][1])


@given(rnd=RANDOM)
@settings(max_examples=tries(60), deadline=None)
def test_who_waits_is_served_however_many_come_after(rnd: Random) -> None:
    """No starvation: against an endless stream of others of the same priority, in whatever sizes, it has its turn."""
    site = Site.drawn(rnd)
    order: deque[int] = deque()
    for _ in range(rnd.randint(10, 20)):
        site.ask(priority=0)
        order.extend(site.grant())
    pools = site.admission.pools
    everything = {"cpu": pools["cpu"], **{name: 1.0 for name in ("quota a",) if name in pools}}
    whole = site.admission.demand([], everything)
    assert whole is not None
    small = site.admission.demand([], {"cpu": 1})
    assert small is not None
    free = [tenant for tenant in TENANTS if f"quota {tenant}" not in pools] or ["z"]
    site.wait_for(whole, "a", 0)
    target = site.asked
    # Everybody who holds something ends after a while, in the order in which they began; newcomers come without end.
    for _ in range(1_500):
        order.extend(site.grant())
        if target not in site.waiting:
            break
        site.ask(priority=0)
        for _ in range(2):
            site.wait_for(small, rnd.choice(free), 0)
        if order:
            site.release(order.popleft())
    site.check()
    assert target not in site.waiting


@given(rnd=RANDOM, weights=st.tuples(*[st.sampled_from((1, 2, 3))] * 3))
@settings(max_examples=tries(50), deadline=None)
def test_tenants_share_by_weight_while_they_all_wait(rnd: Random, weights: tuple[int, int, int]) -> None:
    """Whoever has a thousand nodes and whoever has ten hold as much of a pool at each moment as their weights say."""
    places = sum(weights) * rnd.randint(1, 3)
    shares = dict(zip(TENANTS, weights, strict=True))
    admission = Admission({"slots": float(places)}, [], {name: float(weight) for name, weight in shares.items()})
    demand = admission.demand([], {"slots": 1})
    assert demand is not None
    number = 0
    for tenant in rnd.sample(TENANTS, 3):
        for _ in range(rnd.randint(places * 3, places * 6)):
            number += 1
            admission.request(number, (0, number), demand, tenant)
    held: list[Lease] = []
    for _ in range(places * 2):
        held += [lease for _, lease in admission.grants()]
        counts = Counter(lease.tenant for lease in held)
        assert len(held) == places
        fair = {tenant: places * weight / sum(weights) for tenant, weight in shares.items()}
        assert all(abs(counts[tenant] - fair[tenant]) < 2 for tenant in TENANTS), (counts, fair)
        admission.release(held.pop(rnd.randrange(len(held))))


@given(rnd=RANDOM)
@settings(max_examples=tries(50), deadline=None)
def test_a_tenant_that_its_own_quota_holds_back_keeps_nothing_from_others(rnd: Random) -> None:
    """However much it waits for, everybody else gets what is there."""
    size = rnd.randint(2, 6)
    admission = Admission({"cpu": float(size), "quota a": 1.0}, [], quotas=["quota a"])
    own = admission.demand([], {"cpu": 1, "quota a": 1})
    other = admission.demand([], {"cpu": 1})
    assert own is not None
    assert other is not None
    for number in range(rnd.randint(2, 20)):
        admission.request(("a", number), (-5, number), own, "a")
    for number in range(size * 2):
        admission.request(("b", number), (0, number), other, "b")
    counts = Counter(lease.tenant for _, lease in admission.grants())
    assert counts == {"a": 1, "b": size - 1}
