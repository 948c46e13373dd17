"""PostgreSQL and Temporal that go away in mid-run and come back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dalang.stack import ports
from dalang.stack.postgres import EmbeddedPostgres
from dalang.stack.private_files import make_home
from dalang.stack.supervisor import Stack
from dalang.stack.system_user import remove_data
from tests.faults.site import Site, Watch, chain, edge, effect, mixed_plan, until

GATE = "gate"


def postgres_plan(folder: Path) -> dict[str, Any]:
    """A plan with nodes that end while the database is away, two of them with outputs that must go there."""
    quick = chain(*(effect(folder, f"q{at}", seconds=0.1) for at in range(40)))
    # Shorter than the outage: what waits for the database must not count against the handler's own time.
    hurried = {"timeouts": {"startToClose": "1s"}}
    large = [
        {**effect(folder, "large100", {"maxAttempts": 1}, kilobytes=100), **hurried},
        effect(folder, "large300", gate=gate(folder), kilobytes=300),
    ]
    reader = {"nodeId": "reader", "type": "t-value", "inputs": {"size": "${size(nodes.large300.outputs.text)}"}}
    return {
        "nodes": [*quick["nodes"], *large, reader],
        "edges": [*quick["edges"], edge("q15", "large100"), edge("large300", "reader")],
    }


async def outage_of_postgres(site: Site, servers: Stack, folder: Path, seconds: float) -> None:
    """Run through an outage of ``seconds`` and check that nothing was lost, done twice or counted as an attempt."""
    plan = postgres_plan(folder)
    started = await site.start(plan)
    await site.until_effects(started, 5)
    await servers.kill("postgres")
    watch = Watch()
    before = len(site.effects.done(started.run_id))
    gate(folder, opened=True)
    effects = site.effects
    await until(lambda: len(effects.done(started.run_id)) == 42, 30 + seconds)
    meanwhile = watch.seconds()
    assert not servers.parts["postgres"].running
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(started.handle.result()), max(seconds - watch.seconds(), 0))
        pytest.fail("the run ended without its events being stored")
    await servers.start("postgres")
    back = Watch()
    end = await site.check(started, plan)
    print(f"\n{42 - before} effects in {meanwhile:.1f} s without PostgreSQL; all stored {back.seconds():.1f} s after")
    asked = effects.asked(started.run_id)
    assert {tuple(attempt for attempt, _ in attempts) for attempts in asked.values()} == {(1,)}
    assert {row["attempt"] for row in end["nodes"].values()} == {1}
    assert end["attempts"] == []
    assert end["nodes"]["reader"]["status"] == "SUCCESS"


async def test_nodes_go_on_while_postgres_is_away(exposed: Site, servers_up: Stack, folder: Path) -> None:
    """Their effects appear meanwhile; what must go into the database waits and costs no attempt; then all is stored."""
    await outage_of_postgres(exposed, servers_up, folder, 6)


@pytest.mark.soak
async def test_nodes_go_on_while_postgres_is_away_for_long(exposed: Site, servers_up: Stack, folder: Path) -> None:
    """The same for 30 seconds, which is longer than any heartbeat timeout and any retry of a connection."""
    await outage_of_postgres(exposed, servers_up, folder, 30)


async def outage_of_temporal(site: Site, servers: Stack, folder: Path, seconds: float) -> None:
    """Kill Temporal in mid-run, start it again on its data after ``seconds``, and check the run."""
    plan = mixed_plan(folder, seed=2)
    started = await site.start(plan)
    await site.until_effects(started, 8)
    await servers.kill("temporal")
    watch = Watch()
    lost = site.effects.under_way(started.run_id)
    await until(lambda: watch.seconds() >= seconds, seconds + 5)
    await servers.start("temporal")
    back = Watch()
    before = site.effects.done(started.run_id).keys()
    await site.check(started, plan)
    done = site.effects.done(started.run_id)
    first = min((back.seconds(at) for node, at in done.items() if node not in before), default=0)
    print(
        f"\n{len(lost)} nodes under way; first effect {first:.1f} s and the end {back.seconds():.1f} s after its return"
    )


async def test_a_run_goes_on_after_a_crash_of_temporal(exposed: Site, servers_up: Stack, folder: Path) -> None:
    """Killed and started again on its data: the run completes in order, each effect once per key."""
    await outage_of_temporal(exposed, servers_up, folder, 1)


@pytest.mark.soak
async def test_a_run_goes_on_after_a_long_outage_of_temporal(exposed: Site, servers_up: Stack, folder: Path) -> None:
    """The same when it is away for 30 seconds, longer than workers repeat what they report."""
    await outage_of_temporal(exposed, servers_up, folder, 30)


async def test_a_database_restored_from_an_older_copy_shows_it(exposed: Site, servers_up: Stack, folder: Path) -> None:
    """In mid-run: the run completes, its record names the gap with both heads, and the chain holds from there on."""
    plan = chain(
        *(effect(folder, f"n{at}", seconds=0.1) for at in range(12)), effect(folder, "last", gate=gate(folder))
    )
    started = await exposed.start(plan)
    await started.until("NODE_COMPLETED", "n2")
    await servers_up.stop("postgres")
    cluster = servers_up.settings.home / "postgres" / "cluster"
    copy = cluster.with_name("copy")
    await asyncio.to_thread(shutil.copytree, cluster, copy, symlinks=True)
    await servers_up.start("postgres")
    await started.until("NODE_STARTED", "last")
    lost = await started.stored()
    await servers_up.stop("postgres")
    await asyncio.to_thread(replace, copy, cluster)
    await servers_up.start("postgres")
    older = await started.stored()
    assert len(older["events"]) < len(lost["events"])
    gate(folder, opened=True)
    end = await started.end()
    assert end["result"]["status"] == end["run"]["status"] == "COMPLETED"
    gap = next(row for row in end["events"] if row["type"] == "CHAIN_GAP")
    assert gap["data"]["claimed"] == head(lost)
    assert gap["data"]["stored"] == head(older)
    assert [row["type"] for row in end["events"] if row["epoch"] == gap["epoch"]][-1] == "PLAN_COMPLETED"
    assert await exposed.engine.chain_problem(started.run_id) is None
    assert end["run"]["node_status_counts"] == {"SUCCESS": 13}
    assert {len(attempts) for attempts in exposed.effects.asked(started.run_id).values()} == {1}


async def test_a_crash_of_a_throw_away_database_loses_no_commit() -> None:
    """Only a crash of the machine may: tests kill such a server and count on what was stored."""
    home = make_home(Path(tempfile.mkdtemp(prefix="dalang-faults-")))
    server = EmbeddedPostgres(home, ports.free_port(), durable=False)
    await server.start()
    try:
        connection = await server.connect()
        await connection.execute("create table t (n int)")
        for n in range(20):
            await connection.execute("insert into t values ($1)", n)
        await server.kill()
        await server.start()
        connection = await server.connect()
        assert await connection.fetchval("select count(*) from t") == 20
        await connection.close()
    finally:
        await server.stop()
        remove_data(home / "postgres")
        shutil.rmtree(home)


def gate(folder: Path, *, opened: bool = False) -> str:
    """The gate that nodes of a plan wait for."""
    if opened:
        (folder / GATE).touch()
    return str(folder / GATE)


def head(stored: dict[str, Any]) -> dict[str, Any]:
    """The head of a run's chain."""
    run = stored["run"]
    return {"epoch": run["head_epoch"], "seq": run["head_seq"], "hash": run["head_hash"]}


def replace(copy: Path, cluster: Path) -> None:
    """Put a copy of the database's files in their place."""
    owner = cluster.stat()
    shutil.rmtree(cluster)
    copy.rename(cluster)
    for path in (cluster, *cluster.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
