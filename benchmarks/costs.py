"""What a run and a node cost, everywhere: the figures that ``capacity.py`` and ``docs/scale.md`` calculate with.

``python benchmarks/costs.py [--save]`` starts the whole stack, durable as in production, and runs a small plan and a
larger one, both of durable nodes and of nodes that run together (``execution: local``). What a run costs is a base and
so much for each node, so two sizes tell both: CPU by process, events and bytes of Temporal's history, transactions,
rows, bytes and write-ahead log of PostgreSQL.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asyncpg
from temporalio.client import Client

from benchmarks.results import Row, arguments, computed, pids, row, save
from benchmarks.small_runs import Rest, Seen, together
from dalang.settings import Settings
from dalang.stack.supervisor import on_free_ports, stack
from dalang.temporal import connect

WAYS = {"durable": "durable", "light": "local"}
WIDTH, DEGREE = 5, 2
SIZES = {5: 60, 205: 4}
"""Nodes of a plan, and how many runs of it are measured."""
AT_ONCE = 4
QUIET_SECONDS = 2.0
_DATABASE = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS "transactions that write",
       (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables) AS "rows written",
       (SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables) AS "bytes stored",
       pg_current_wal_insert_lsn() - '0/0' AS "bytes of WAL"
"""


def document(nodes: int, execution: str) -> dict[str, Any]:
    """Layers of five nodes, each with two edges from the layer before, with a small input and output."""
    edges = [
        {"sourceNodeId": f"n{i - WIDTH + (k if i % WIDTH + k < WIDTH else 0)}", "targetNodeId": f"n{i}"}
        for i in range(WIDTH, nodes)
        for k in range(DEGREE)
        if k == 0 or i % WIDTH + k < WIDTH
    ]
    one = {"type": "noop", "inputs": {"order": "${inputs.order}"}}
    return {
        "name": f"{execution} {nodes}",
        "execution": execution,
        "inputs": {"type": "object", "properties": {"order": {"type": "string", "default": "2026-000123"}}},
        "nodes": [{"nodeId": f"n{i}", **one} for i in range(nodes)],
        "edges": edges,
    }


async def of_history(client: Client, run_ids: list[str]) -> dict[str, float]:
    """How long the histories of runs are on the average."""
    events = size = 0
    for run_id in run_ids:
        history = await client.get_workflow_handle(f"run-{run_id}").fetch_history()
        events += len(history.events)
        size += sum(event.ByteSize() for event in history.events)
    return {"events of history": events / len(run_ids), "bytes of history": size / len(run_ids)}


def split(
    small: Mapping[str, float], large: Mapping[str, float], sizes: tuple[int, int]
) -> dict[str, dict[str, float]]:
    """Return what a run costs by itself and what each of its nodes adds, from what runs of two sizes cost."""
    few, many = sizes
    node = {what: (large[what] - small[what]) / (many - few) for what in small}
    return {"a node": node, "a run": {what: max(small[what] - few * node[what], 0.0) for what in small}}


async def cost(
    rest: Rest,
    seen: Seen,
    client: Client,
    conn: asyncpg.Connection,
    roots: dict[str, int],
    plan: dict[str, Any],
    count: int,
) -> dict[str, float]:
    """Run the plan so many times; return what one run cost."""
    wanted = {"planId": (await rest.post("/orchestrator/plans", plan))["planId"]}
    run_ids: list[str] = []

    async def one() -> None:
        run_ids.append((await rest.post("/orchestrator/execute", wanted))["runId"])
        await seen.end(uuid.UUID(run_ids[-1]))

    await together(one, AT_ONCE, AT_ONCE)  # warms up
    run_ids.clear()
    await asyncio.sleep(QUIET_SECONDS)  # PostgreSQL counts behind
    before = await conn.fetchrow(_DATABASE)
    with computed(roots) as spent:
        await together(one, count, AT_ONCE)
        await asyncio.sleep(QUIET_SECONDS)
    after = await conn.fetchrow(_DATABASE)
    parts = {f"CPU ms of {part}": seconds * 1000 / count for part, seconds in spent.items() if part != "here"}
    stored = {name: float(after[name] - before[name]) / count for name in dict(before)}
    return {**parts, **stored, **await of_history(client, run_ids[:20])}


async def measure() -> list[Row]:
    """Measure all; return the rows."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        async with stack(on_free_ports(Settings(home=Path(folder)))) as running:
            settings, token = running.settings, running.settings.read_token()
            assert token is not None
            rest, seen, client = Rest(settings.api_url, token), Seen(settings), await connect(settings)
            conn = await asyncpg.connect(settings.require_migration_database_url().replace("+asyncpg", ""))
            async with seen.looking():
                for way, execution in WAYS.items():
                    few, many = [
                        await cost(rest, seen, client, conn, pids(running), document(nodes, execution), count)
                        for nodes, count in SIZES.items()
                    ]
                    sizes = list(SIZES)
                    for case, costs in split(few, many, (sizes[0], sizes[1])).items():
                        rows += [row(case, way, what, value) for what, value in costs.items()]
            await conn.close()
            rest.close()
    return rows


async def main(keep: bool) -> None:
    """Measure, print, keep."""
    rows = await measure()
    for one in rows:
        print(f"{one['case']:<8} {one['subject']:<8} {one['unit']:<24} {one['median']:>10,.4g}")
    if keep:
        notes = [
            "Runs of 5 and of 205 nodes in layers, four at once; what a run costs by itself and what a node adds "
            "follow from both. One worker, one API process, PostgreSQL durable (fsync, WAL).",
            "Temporal is the development server with SQLite: a production server with its own database needs more "
            "processor time for the same events.",
        ]
        save("costs", "What a run and a node cost", rows, notes)


if __name__ == "__main__":
    asyncio.run(main(arguments(__doc__).parse_args().save))
