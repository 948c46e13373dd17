"""Many runs: 1,000,000 that ended stand in the database, and 10,000 wait for people; how long do answers take?

``python benchmarks/many_runs.py finished`` fills a Postgres of its own and asks a real API process, over HTTP, with a
token, row level security on. ``waiting`` starts runs that wait for a person, for ``--seconds`` at most, and looks at
what they cost at rest, with ``--cached`` of them in the memory of the worker. ``--home`` keeps the data and uses it, or
starts as many runs as are missing; ``--only`` asks what has such a name.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import filled, waiting
from benchmarks.results import Row, arguments, computed, percentile, pids, row, save
from dalang.retention import Policy, Retention
from dalang.settings import Settings
from dalang.stack.postgres import DATABASE, EmbeddedPostgres
from dalang.stack.supervisor import Stack, on_free_ports, stack
from dalang.store.engine import create_engine, system_transaction
from dalang.store.paging import write_cursor
from dalang.store.tokens import create_token

RUNS = "/orchestrator/runs"
TASKS = "/orchestrator/human-tasks"
SMALL = "tenant-7"
"""A tenant with a fiftieth of the runs."""
_PARTS = {"api": "API", "postgres": "PostgreSQL"}
LIMIT = 50.0
"""Milliseconds that the 99th of 100 answers may take."""
Ask = Callable[[], tuple[str, Mapping[str, Any]]]


@dataclass
class Site:
    """A stack whose database is full, and what is asked of it."""

    running: Stack
    clients: dict[str, httpx.AsyncClient]
    runs: int
    proven: Sequence[UUID]
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def postgres(self) -> EmbeddedPostgres:
        """Its database server."""
        part = self.running.parts["postgres"]
        assert isinstance(part, EmbeddedPostgres)
        return part

    def time(self) -> datetime:
        """Some time within those of the runs."""
        return datetime.now(UTC) - timedelta(days=self.chance.uniform(1, filled.DAYS - 1))

    def number(self, step: int, first: int) -> int:
        """Some number that is ``first`` modulo ``step``."""
        return self.chance.randrange(self.runs // step - 1) * step + first


def _id(number: int) -> str:
    return str(filled.run_id(number))


def _task(number: int, what: str = "task") -> str:
    return str(filled.task_id(number, what))


def questions(it: Site, detailed: int) -> dict[str, tuple[str, Ask]]:
    """What is asked, by name: of which tenant, and how; ``detailed``: each so manieth run has its events."""
    big, small = filled.TENANT, SMALL
    wide = it.chance

    def listed(tenant: str = big, address: str = RUNS, **query: Any) -> tuple[str, Ask]:
        return tenant, lambda: (address, query)

    def deep(**query: Any) -> tuple[str, Ask]:
        return big, lambda: (RUNS, {**query, "cursor": write_cursor(it.time(), UUID(int=wide.getrandbits(128)))})

    def window() -> tuple[str, Mapping[str, Any]]:
        begin = it.time()
        return RUNS, {"from": begin.isoformat(), "to": (begin + timedelta(hours=6)).isoformat()}

    def run(path: str = "", step: int = 10, first: int = 2) -> tuple[str, Ask]:
        return big, lambda: (f"{RUNS}/{_id(it.number(step, first))}{path}", {})

    def proven(path: str) -> tuple[str, Ask]:
        return big, lambda: (f"{RUNS}/{wide.choice(it.proven)}{path}", {})

    return {
        "list, newest": listed(),
        "list, newest, small tenant": listed(small),
        "list, deep cursor": deep(),
        "list, with children": listed(children=True),
        "list, children of a run": (big, lambda: (RUNS, {"parentRunId": _id(it.number(10, 8))})),
        "list, COMPLETED": listed(status="COMPLETED"),
        "list, FAILED": listed(status="FAILED"),
        "list, FAILED, deep cursor": deep(status="FAILED"),
        "list, FAILED or CANCELLED": listed(status=["FAILED", "CANCELLED"]),
        "list, PAUSED (none)": listed(status="PAUSED"),
        "list, active": listed(active=True),
        "list, ended": listed(active=False),
        "list, plan by name, common": listed(plan="order"),
        "list, plan by name, rare": listed(plan="QUARTERLY"),
        "list, plan by name, none": listed(plan="nowhere"),
        "list, plan by name, none, small tenant": listed(small, plan="nowhere"),
        "list, plan by name, many, deep cursor": deep(plan="review"),
        "list, plan by name, rare, FAILED": listed(plan="quarterly", status="FAILED"),
        "list, plan by name, common, PAUSED (none)": listed(plan="order", status="PAUSED"),
        "list, plan by id": (big, lambda: (RUNS, {"planId": filled.plan_id(f"plan-{wide.randrange(64)}-review")})),
        "list, plan by id, PAUSED (none)": listed(planId=filled.plan_id("order-to-invoice"), status="PAUSED"),
        "list, a window of time": (big, window),
        "list, of a person": (big, lambda: (RUNS, {"createdBy": f"person-{wide.randrange(50)}"})),
        "list, of a schedule": (big, lambda: (RUNS, {"scheduleId": f"nightly-{wide.randrange(20)}"})),
        "list, label, common": listed(label="env=prod"),
        "list, label, once common": listed(label="env=old-prod"),
        "list, label, rare": listed(label=filled.RARE_LABEL),
        "list, label, none": listed(label="ticket=nothing"),
        "list, two labels, FAILED": listed(label=["team=team-10", "env=prod"], status="FAILED"),
        "list, two labels, FAILED, deep cursor": deep(label=["team=team-4", "env=old-prod"], status="FAILED"),
        "list, two labels, FAILED or CANCELLED": listed(
            label=["team=team-10", "env=prod"], status=["FAILED", "CANCELLED"]
        ),
        "list, two labels, none": listed(label=["team=team-10", "team=team-4"]),
        "list, label, of a person": listed(label="team=team-10", createdBy="person-3"),
        "list, label, plan by name, FAILED": listed(label="team=team-10", plan="order", status="FAILED"),
        "run": run(),
        "run, nodes": run("/nodes", detailed, 0),
        "run, events": run("/events", detailed, 0),
        "counts": listed(address=f"{RUNS}/counts"),
        "metrics snapshot": listed(address="/orchestrator/metrics"),
        "metrics, Prometheus": listed(address="/metrics"),
        "overview page, day": listed(address="/ui/"),
        "overview page, month": listed(address="/ui/", range="month"),
        "page of runs": listed(address="/ui/runs"),
        "page of a run": (big, lambda: (f"/ui/runs/{_id(it.number(detailed, 0))}", {})),
        "page of the inbox": listed(address="/ui/inbox"),
        "tasks, open": listed(address=TASKS, open=True),
        "tasks, mine": listed(address=TASKS, mine=True),
        "tasks, overdue": listed(address=TASKS, overdue=True),
        "tasks, open, of a group": (big, lambda: (TASKS, {"group": f"group-{wide.randrange(8)}", "open": True})),
        "tasks, COMPLETED, newest": listed(address=TASKS, status="COMPLETED", order="newest"),
        "tasks, all, most urgent": listed(address=TASKS),
        "tasks, of a group, all": listed(address=TASKS, group="group-3"),
        "tasks, EXPIRED (none)": listed(address=TASKS, status="EXPIRED"),
        "tasks, of a run": (big, lambda: (TASKS, {"runId": _id(it.number(detailed, 0))})),
        "tasks, counts": listed(address=f"{TASKS}/counts"),
        "task": (big, lambda: (f"{TASKS}/{_task(it.number(detailed, 0))}", {})),
        "audit, verify a run": proven("/verify"),
        "audit, export of a run": proven("/export"),
        "audit, anchors": listed(address="/orchestrator/audit/anchors"),
        "audit, system events": listed(address="/orchestrator/system-events"),
        "provenance of a run": proven("/provenance"),
        "artifacts": listed(address="/orchestrator/artifacts"),
        "queue": listed(address="/orchestrator/queue"),
        "limits": listed(address="/orchestrator/utilization"),
        "budgets": listed(address="/orchestrator/budgets"),
        "agents, statistics": listed(address="/orchestrator/agents/statistics"),
    }


async def asked(it: Site, tenant: str, ask: Ask, count: int) -> list[float]:
    """Ask so often, one after the other; milliseconds until the whole answer was there."""
    took = []
    for _ in range(count):
        address, query = ask()
        begun = time.perf_counter()
        answer = await it.clients[tenant].get(address, params=query)
        took.append(1000 * (time.perf_counter() - begun))
        if answer.status_code not in (200, 404):
            raise RuntimeError(f"{address} {query}: {answer.status_code} {answer.text[:300]}")
    return took


async def finished(options: Any) -> list[Row]:
    """Fill the database, and ask; then delete some of it while others ask."""
    rows: list[Row] = []
    detailed = max(round(1 / options.detailed), 1)
    async with _running(options) as (running, home):
        it = await _filled(running, home, options)
        rows += await _sizes(it)
        with computed(pids(running)) as spent:
            begun = time.monotonic()
            await asyncio.sleep(options.rest)
        rest = {name: 100 * seconds / (time.monotonic() - begun) for name, seconds in spent.items()}
        rows += [
            row(f"{options.runs:,} finished runs, at rest", name, "% of a core", value) for name, value in rest.items()
        ]
        print("at rest:", {name: f"{value:.1f} %" for name, value in rest.items()})
        slow = []
        for name, (tenant, ask) in questions(it, detailed).items():
            if options.only not in name:
                continue
            await asked(it, tenant, ask, 3)
            with computed(pids(running)) as spent:
                took = await asked(it, tenant, ask, options.requests)
            p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
            each = {name: 1000 * spent[name] / len(took) for name in ("api", "postgres")}
            rows += [row(name, "p50", "ms", p50), row(name, "p99", "ms", p99)]
            rows += [row(name, _PARTS[part], "CPU ms", value) for part, value in each.items()]
            slow += [name] if p99 > LIMIT else []
            told = f"api {each['api']:6.1f} postgres {each['postgres']:7.1f} ms{'  SLOW' if p99 > LIMIT else ''}"
            print(f"{name:42} p50 {p50:7.1f}  p99 {p99:7.1f} ms   computed: {told}", flush=True)
        print(f"slower than {LIMIT:.0f} ms:", slow)
        if options.retention:
            rows += await _retention(it, options)
        for client in it.clients.values():
            await client.aclose()
    return rows


async def waited(options: Any) -> list[Row]:
    """Start runs that wait, as far as there are not enough, and look at them."""
    async with _running(options) as (running, _):
        return await waiting.waiting(running, options)


async def _filled(running: Stack, home: Path, options: Any) -> Site:
    it = Site(running, {}, options.runs, [])
    superuser = await it.postgres.connect(DATABASE)
    engine = create_engine(running.settings)
    if not await superuser.fetchval("SELECT EXISTS (SELECT FROM execution_runs)"):
        begun = time.monotonic()
        await filled.fill(superuser, filled.Filling(options.runs, options.detailed))
        await filled.real_runs(engine, 50)
        print(f"filled in {time.monotonic() - begun:.0f} s")
    it.proven = [
        one[0] for one in await superuser.fetch("SELECT run_id FROM execution_runs WHERE plan_name = 'proven'")
    ]
    for tenant in (filled.TENANT, SMALL):
        async with system_transaction(engine) as conn:
            token, _ = await create_token(conn, tenant, "person-7", ["admin"], groups=["group-1"])
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        base = running.settings.api_url
        it.clients[tenant] = httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=60)
    await engine.dispose()
    await superuser.close()
    return it


_SIZES = """
SELECT relname, pg_table_size(c.oid) AS data, pg_indexes_size(c.oid) AS indexes, reltuples
FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
ORDER BY pg_total_relation_size(c.oid) DESC LIMIT 8
"""


async def _sizes(it: Site) -> list[Row]:
    superuser = await it.postgres.connect(DATABASE)
    rows = []
    for table in await superuser.fetch(_SIZES):
        count = max(table["reltuples"], 1)
        told = {part: table[part] / count for part in ("data", "indexes")}
        print(f"{table['relname']:20} {count:12,.0f} rows {told['data']:8.0f} + {told['indexes']:.0f} bytes each")
        rows += [row(f"a row of {table['relname']}", part, "bytes", value) for part, value in told.items()]
    await superuser.close()
    return rows


async def _retention(it: Site, options: Any) -> list[Row]:
    """Delete a share of the runs by the job, while one client asks; then vacuum."""
    ask = {name: one for name, one in questions(it, max(round(1 / options.detailed), 1)).items() if name in _MEANWHILE}
    engine = create_engine(it.running.settings)
    keep = filled.DAYS * (1 - options.retention)
    deleting = asyncio.create_task(Retention(engine, Policy(keep)).step())
    took: list[float] = []
    begun, before = time.monotonic(), await _lock_waits(it)
    waited = 0
    while not deleting.done():
        for tenant, one in ask.values():
            took += await asked(it, tenant, one, 1)
        waited += await _lock_waits(it) - before
    seconds = time.monotonic() - begun
    gone = sum(deleting.result().values())
    print(f"retention: {gone:,} runs in {seconds:.0f} s, {gone / seconds:.0f} a second; asked meanwhile {len(took)}")
    print(f"  p50 {percentile(took, 0.5):.1f} p99 {percentile(took, 0.99):.1f} ms; waits for locks seen: {waited}")
    superuser = await it.postgres.connect(DATABASE)
    vacuumed = time.monotonic()
    vacuuming = asyncio.create_task(superuser.execute("VACUUM"))
    later: list[float] = []
    while not vacuuming.done():
        for tenant, one in ask.values():
            later += await asked(it, tenant, one, 1)
    print(f"  vacuum {time.monotonic() - vacuumed:.0f} s; meanwhile p99 {percentile(later, 0.99):.1f} ms")
    await superuser.close()
    await engine.dispose()
    return [
        row("retention job", "runs deleted", "runs/s", gone / seconds),
        row("retention job, meanwhile", "p50", "ms", percentile(took, 0.5)),
        row("retention job, meanwhile", "p99", "ms", percentile(took, 0.99)),
        row("retention job", "waits for locks", "seen", waited),
        row("vacuum, meanwhile", "p99", "ms", percentile(later, 0.99)),
    ]


_MEANWHILE = ("list, newest", "list, FAILED", "run", "counts", "tasks, open", "list, deep cursor")


async def _lock_waits(it: Site) -> int:
    superuser: asyncpg.Connection = await it.postgres.connect(DATABASE)
    found = await superuser.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    await superuser.close()
    return int(found)


class _running:
    """The stack of the benchmark, in a folder that goes with it unless one is named."""

    def __init__(self, options: Any) -> None:
        self._options = options

    async def __aenter__(self) -> tuple[Stack, Path]:
        self._folder = None if self._options.home else tempfile.TemporaryDirectory()
        home = Path(self._options.home or self._folder.name)  # type: ignore[union-attr]
        settings = on_free_ports(Settings(home=home, max_cached_workflows=self._options.cached))
        self._stack = stack(settings, durable=False)
        return await self._stack.__aenter__(), home

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)
        if self._folder is not None:
            self._folder.cleanup()


NOTES = [
    "The benchmark's PostgreSQL does not wait for the disk (durable=False: fsync off), with 64 MB of shared buffers.",
    "Asked over HTTP by one client on the same machine, one request after the other; the client's time is in it.",
]


def main() -> None:
    """Run a part."""
    filling = {"runs": 1_000_000, "detailed": 0.1, "waiting": 10_000, "seconds": 240.0, "cached": 500}
    asking = {"requests": 100, "only": "", "rest": 20.0, "retention": 0.1}
    parser = arguments(__doc__, home="", **filling, **asking)
    parser.add_argument("part", choices=["finished", "waiting"])
    options = parser.parse_args()
    rows = asyncio.run(finished(options) if options.part == "finished" else waited(options))
    if options.save:
        print(save("many_runs", "Many runs", rows, NOTES, keep=True))


if __name__ == "__main__":
    main()
