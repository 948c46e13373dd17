"""How many leases a second are granted and given back while many wait; once with nobody waiting, once with 1,000.

``python benchmarks/leases.py`` starts a Postgres of its own. Both are measured in turns in one run, and the ratio says
what the waiting cost.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import Spread, arguments, ratio, row, save
from dalang.leasing import Leasing
from dalang.settings import Settings
from dalang.stack.supervisor import on_free_ports, stack
from dalang.store.engine import create_engine, system_transaction
from dalang.store.leases import Ask, Asker

SECONDS = 5.0
ROUNDS = 3
CLIENTS = 60
WAITING = 1000


@asynccontextmanager
async def prepared() -> AsyncIterator[AsyncEngine]:
    """A database with a pool that a few clients share, and one that nobody gets anything of."""
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder)))
        async with stack(settings, frozenset({"postgres"}), durable=True) as running:
            engine = create_engine(running.settings, pool_size=20)
            row = text("INSERT INTO resource_pools (tenant_id, name, size, updated_by) VALUES ('', :name, :size, 'b')")
            async with system_transaction(engine) as conn:
                await conn.execute(row, [{"name": "cpu", "size": 40}, {"name": "gpu", "size": 1}])
            yield engine
            await engine.dispose()


async def pairs_per_second(leasing: Leasing) -> float:
    """Ask for a lease and give it back, as fast as so many clients can."""
    ends = time.perf_counter() + SECONDS
    count = 0

    async def client(number: int) -> None:
        nonlocal count
        run = uuid4()
        while time.perf_counter() < ends:
            ask = Ask(uuid4(), "n", 0, {"cpu": 1})
            tenant = f"t{number % 4}"
            asker = Asker(tenant, run, f"run-{run}")
            (answer,) = await leasing.ask(asker, [ask])
            while answer.state == "WAITING" and time.perf_counter() < ends:
                (answer,) = await leasing.ask(asker, [ask])
            await leasing.release(tenant, [ask.lease_id])
            count += 1

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return count / SECONDS


async def main() -> tuple[list[float], list[float]]:
    """Measure in turns: with nobody waiting, and with many."""
    async with prepared() as engine:
        leasing = Leasing(engine)
        run, idle, busy = uuid4(), list[float](), list[float]()
        for _ in range(ROUNDS):
            idle.append(await pairs_per_second(leasing))
            held = Ask(uuid4(), "holder", 0, {"gpu": 1})
            waiting = [Ask(uuid4(), f"w{at}", 0, {"gpu": 1}) for at in range(WAITING)]
            await leasing.ask(Asker("t0", run, f"run-{run}"), [held, *waiting])
            busy.append(await pairs_per_second(leasing))
            await leasing.release("t0", [one.lease_id for one in (*waiting, held)])
        return idle, busy


if __name__ == "__main__":
    wanted = arguments(__doc__).parse_args()
    idle, busy = asyncio.run(main())
    cases = {"nobody waiting": idle, f"{WAITING:,} waiting": busy}
    for case, values in cases.items():
        print(f"pairs a second, {case}: {Spread.of(values)}")
    print(f"ratio: {ratio(busy, idle)}")
    if wanted.save:
        note = f"{CLIENTS} clients in one process; a pair is a lease asked for and given back."
        rows = [row(case, "leases", "pairs/s", values) for case, values in cases.items()]
        save("leases", "Leases granted and given back", rows, [note])
