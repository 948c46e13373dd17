"""What row level security costs: lists of runs, flushes and leases, with the policies and without, in turns.

``python benchmarks/row_security.py`` starts a Postgres of its own. What is compared is the processor time of it and of
this process: the clock of a machine that does other things, too, tells little. "Without" has neither policies nor the
statement with which jobs of the system take their role, as before there were any.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import Row, Spread, arguments, computed, pids, ratio, row, save
from dalang import leasing
from dalang.settings import Settings
from dalang.stack.supervisor import Stack, on_free_ports, stack
from dalang.store import row_security
from dalang.store.engine import create_engine, system_transaction, transaction
from dalang.store.leases import Ask, Asker
from dalang.store.recording import record
from dalang.store.run_lists import list_runs
from dalang.store.runs import NewRun, create_run
from dalang.wire import Fact, Head, RecordInput

TENANTS, RUNS = 20, 40_000
ROUNDS = 12
EMPTY: Head = {"epoch": 0, "seq": 0, "hash": ""}
_RUNS = text(
    "INSERT INTO execution_runs (run_id, tenant_id, plan_id, plan_name, plan_version, plan_digest, created_by,"
    " created_at) SELECT gen_random_uuid(), 't' || i % :tenants, gen_random_uuid(), 'p', '1', '', 'b',"
    " now() - i * interval '1 second' FROM generate_series(1, :runs) AS i"
)


@asynccontextmanager
async def as_before(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """What a transaction of the system was."""
    async with engine.begin() as conn:
        yield conn


async def lists(engine: AsyncEngine) -> None:
    """Read 100 pages of 50 runs."""
    for number in range(100):
        tenant = f"t{number % TENANTS}"
        async with transaction(engine, tenant) as conn:
            page = await list_runs(conn, tenant, limit=50)
        assert len(page.items) == 50


async def flushes(engine: AsyncEngine) -> None:
    """Store 30 batches of 40 facts of a run."""
    async with transaction(engine, "t1") as conn:
        new = NewRun("t1", uuid4(), "p", "1", "0" * 64, "b", 40)
        run_id: UUID = (await create_run(conn, new))[0].run_id
    head = EMPTY
    for batch in range(30):
        first = head["seq"] + 1
        facts: list[Fact] = [
            {
                "seq": first + at,
                "type": "NODE_COMPLETED",
                "at": 1_800_000_000_000 + at,
                "nodeId": f"n{at}",
                "data": {"status": "SUCCESS", "attempt": 1},
                "body": {"outputs": {"batch": batch}},
            }
            for at in range(40)
        ]
        request: RecordInput = {"runId": str(run_id), "tenantId": "t1", "head": head, "facts": facts}  # type: ignore[typeddict-item]
        request |= {"status": "RUNNING", "counts": {}, "final": False}  # type: ignore[typeddict-item]
        told = await record(engine, request, temporal_run_id="x", workflow_id=f"run-{run_id}", is_current=_never)
        head = {"epoch": told["epoch"], "seq": told["seq"], "hash": told["hash"]}


async def _never() -> bool:
    raise AssertionError("the heads are equal")


async def leases(engine: AsyncEngine) -> None:
    """Ask for 60 leases at a time and give them back, four times."""
    desk = leasing.Leasing(engine)
    for _ in range(4):
        run = uuid4()
        asks = [Ask(uuid4(), f"n{at}", 0, {"cpu": 1}) for at in range(60)]

        async def one(ask: Ask, run: UUID = run) -> None:
            await desk.ask(Asker("t1", run, f"run-{run}"), [ask])
            await desk.release("t1", [ask.lease_id])

        await asyncio.gather(*(one(ask) for ask in asks))
    desk.close()


async def main() -> list[Row]:
    """Measure in turns, print the ratios, and return what was measured."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder)))
        async with stack(settings, frozenset({"postgres"}), durable=False) as running:
            engine = create_engine(running.settings, pool_size=10)
            owner = create_engine(running.settings.migration_database_url, pooled=False)  # type: ignore[arg-type]
            async with system_transaction(engine) as conn:
                await conn.execute(_RUNS, {"tenants": TENANTS, "runs": RUNS})
            await _switch(owner, on=True, vacuum=True)
            for work in (lists, flushes, leases):
                rows += await _compared(running, engine, owner, work)
            await engine.dispose()
    return rows


async def _compared(
    running: Stack, engine: AsyncEngine, owner: AsyncEngine, work: Callable[[AsyncEngine], Awaitable[None]]
) -> list[Row]:
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(2 * ROUNDS + 2):
        on = turn % 2 == 0
        await _switch(owner, on=on)
        leasing.system_transaction = system_transaction if on else as_before  # type: ignore[attr-defined]
        await work(engine)  # plans are made anew after the switch
        with computed(pids(running)) as spent:
            await work(engine)
        times[on].append(spent.total)
    with_, without = (times[on][1:] for on in (True, False))
    print(work.__name__, "with", Spread.of(with_), "without", Spread.of(without), "ratio", ratio(with_, without))
    return [
        row(work.__name__, "with policies", "CPU s", with_),
        row(work.__name__, "without", "CPU s", without),
    ]


async def _switch(owner: AsyncEngine, *, on: bool, vacuum: bool = False) -> None:
    async with owner.begin() as conn:
        await conn.run_sync(row_security.enforce if on else row_security.relax)
        if vacuum:
            await conn.execute(text("ANALYZE"))


if __name__ == "__main__":
    wanted = arguments(__doc__).parse_args()
    rows = asyncio.run(main())
    if wanted.save:
        note = "Lists of 50 of 40,000 runs of 20 tenants, flushes of 40 facts, leases asked for and given back."
        save("row_security", "What row level security costs", rows, [note])
