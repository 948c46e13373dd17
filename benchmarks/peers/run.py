"""The same DAG with the same steps that do nothing, run durably by Dalang and by its peers, in turns on this machine.

``python benchmarks/peers/run.py --install`` makes the peers' virtual environments (once), then
``python benchmarks/peers/run.py [--rounds 3] [--save]`` starts one PostgreSQL and measures. In each round one peer
after the other is started alone, warmed up, and runs every graph in each of its ways; that every step ran once and that
the peer's own records have every node is looked at each time. ``--small`` only shows that all of it works.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import asyncpg
from interpreter import GRAPHS, Edges, chain, layered
from notes import NOTES
from peer import Peer, Running, started
from results import RESULTS, Row, Spread, arguments, cpu_seconds, ratio, row, save

from dalang.stack.ports import free_port
from dalang.stack.postgres import APP, OWNER, SUPERUSER, EmbeddedPostgres

OURS = ("durable nodes", "light nodes")
PEERS = {
    "dalang": Peer("Dalang", "dalang_plan", OURS),
    "dalang-full": Peer("Dalang (SQLite full)", "dalang_plan", OURS, sqlite="full"),
    "temporal": Peer("Temporal", "temporal_by_hand", ("by hand",)),
    "temporal-full": Peer("Temporal (SQLite full)", "temporal_by_hand", ("by hand",), sqlite="full"),
    "prefect": Peer("Prefect", "prefect_flow", ("results kept",), "prefect"),
    "prefect-states": Peer("Prefect", "prefect_flow", ("states only",), "prefect"),
    "dbos": Peer("DBOS", "dbos_steps", ("steps",), "dbos"),
    "absurd": Peer("Absurd", "absurd_steps", ("steps",), "absurd"),
    "dagster": Peer("Dagster", "dagster_job", ("in process",), "dagster"),
    "langgraph": Peer("LangGraph", "langgraph_graph", ("sync", "async", "exit", "async, unlocked"), "langgraph"),
}
CASES = {name: GRAPHS[name] for name in ("chain 100", "layered 1,000")}
SMALL = {"chain 5": chain(5), "layered 12": layered(3, 4, 2)}
WARM_UP = layered(5, 20, 3)

Graph = tuple[int, Edges]
Samples = dict[tuple[str, str], list[tuple[float, float]]]
"""Wall and CPU seconds of each round, by graph and subject."""


async def measure(running: Running, postgres: int, case: str, name: str, graph: Graph) -> tuple[float, float]:
    """Run one graph once; wall and CPU seconds, those of PostgreSQL in them."""
    count, edges = graph
    await running.ask(do="prepare", case=case, name=name, count=count, edges=edges)
    roots = {"peer": running.pid, "postgres": postgres}
    before = sum(cpu_seconds(roots).values())
    seconds = (await running.ask(do="run"))["seconds"]
    spent = sum(cpu_seconds(roots).values()) - before
    told = await running.ask(do="check")
    if (told["ran"], told["nodes"]) != (count, count):
        raise SystemExit(f"{case}, {name}: of {count} nodes {told}")
    if told["stored"] != count:  # it can be so with Prefect, whose server records behind the run
        print(f"{case}, {name}: of {count} nodes {told['stored']} are recorded as done")
    return seconds, spent


async def one_round(
    peers: list[Peer], graphs: dict[str, Graph], server: EmbeddedPostgres, folder: Path, samples: Samples
) -> None:
    """Every peer once: start it, warm it up, measure it, stop it."""
    assert server._child is not None
    assert server._child.pid is not None
    postgres = server._child.pid
    for peer in peers:
        given = {
            "url": server.url(SUPERUSER, peer.adapter),
            "app_url": server.url(APP),
            "owner_url": server.url(OWNER),
            "sqlite": peer.sqlite if server.durable else "off",
        }
        async with started(peer, given, folder / peer.name) as running:
            for case in peer.cases:
                await measure(running, postgres, case, "warm-up", WARM_UP if graphs is CASES else SMALL["chain 5"])
            for name, graph in graphs.items():
                for case in peer.cases:
                    taken = await measure(running, postgres, case, name, graph)
                    samples[name, f"{peer.name}, {case}"].append(taken)
                    print(f"{name:<14} {peer.name}, {case}: {taken[0]:.2f} s, {taken[1]:.2f} s of CPU", flush=True)


async def commit_ms(server: EmbeddedPostgres) -> float:
    """How long a commit takes that the disk has to confirm: what every durable step pays at least once."""
    connection = await server.connect()
    times = []
    await connection.execute("create table commits (n int)")
    for number in range(200):
        begin = time.perf_counter()
        await connection.execute("insert into commits values ($1)", number)
        times.append(time.perf_counter() - begin)
    await connection.close()
    return statistics.median(times) * 1000


async def main(
    peers: list[Peer], graphs: dict[str, Graph], rounds: int, durable: bool, tell: Callable[[Samples, float], None]
) -> None:
    """Start PostgreSQL with a database for each peer, and go round; what was measured so far is told each time."""
    samples: Samples = defaultdict(list)
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with tempfile.TemporaryDirectory(prefix="peers-") as home:
        server = EmbeddedPostgres(Path(home), free_port(), durable=durable)
        await server.start()
        try:
            commit = await commit_ms(server)
            connection: asyncpg.Connection = await server.connect()
            for name in {peer.adapter for peer in peers}:
                await connection.execute(f"create database {name}")
            await connection.close()
            for number in range(rounds):
                order = random.Random(number).sample(peers, len(peers))
                await one_round(order, graphs, server, Path(home) / f"round-{number}", samples)
                tell(samples, commit)
        finally:
            await server.stop()


def rows_of(samples: Samples, suffix: str) -> Iterator[Row]:
    """Nodes a second, milliseconds of time and of processor for each node."""
    for (name, subject), taken in samples.items():
        count = (CASES | SMALL)[name][0]
        yield row(name + suffix, subject, "nodes/s", [count / wall for wall, _ in taken])
        yield row(name + suffix, subject, "ms/node", [wall / count * 1000 for wall, _ in taken])
        yield row(name + suffix, subject, "CPU ms/node", [cpu / count * 1000 for _, cpu in taken])


def joined(rows: list[Row], earlier: list[Row]) -> list[Row]:
    """Rounds measured now, with those of before in front of them."""
    known = {(one["case"], one["subject"], one["unit"]): one["values"] for one in earlier}
    return [
        row(
            one["case"],
            one["subject"],
            one["unit"],
            known.get((one["case"], one["subject"], one["unit"]), []) + one["values"],
        )
        for one in rows
    ]


def show(rows: list[Row]) -> None:
    """Print what was measured, and how many times as many nodes Dalang completed in the same time."""
    found = {(one["case"], one["subject"], one["unit"]): one["values"] for one in rows}
    ours = [f"Dalang, {case}" for case in OURS]
    for name in dict.fromkeys(one["case"] for one in rows if one["unit"] == "nodes/s"):
        print(f"\n{name:<28}{'nodes/s':>24}{'ms/node':>22}{'CPU ms/node':>22}{'durable by it':>22}{'light by it':>22}")
        for case, subject, unit in found:
            if case != name or unit != "nodes/s":
                continue
            shown = [str(Spread.of(found[name, subject, unit])) for unit in ("nodes/s", "ms/node", "CPU ms/node")]
            by_it = [_by(found.get((name, one, "nodes/s"), []), found[name, subject, "nodes/s"]) for one in ours]
            print(f"{subject:<28}{shown[0]:>24}{shown[1]:>22}{shown[2]:>22}{by_it[0]:>22}{by_it[1]:>22}")


def _by(values: list[float], base: list[float]) -> str:
    """Round by round; by medians where one was not measured beside the other."""
    if not values:
        return ""
    beside = len(values) == len(base)
    return str(ratio(values, base)) if beside else f"{statistics.median(values) / statistics.median(base):.1f}"


if __name__ == "__main__":
    parser = arguments(
        __doc__,
        rounds=3,
        minutes=2,
        peers=",".join(name for name in PEERS if name not in ("prefect-states", "dagster")),
    )
    parser.add_argument("--install", action="store_true", help="Make the peers' virtual environments, and end.")
    parser.add_argument("--add", action="store_true", help="Take the rounds that were saved before as measured too.")
    parser.add_argument("--keep", action="store_true", help="Let saved figures of what is not measured now stay.")
    parser.add_argument("--small", action="store_true", help="Run graphs so small that nothing is measured.")
    parser.add_argument(
        "--no-disk", action="store_true", help="No store waits for the disk: the engines by themselves."
    )
    given = parser.parse_args()
    chosen = [PEERS[name] for name in given.peers.split(",")]
    if given.install:
        for one in chosen:
            one.install()
        sys.exit()
    file = RESULTS / "peers.json"
    earlier = json.loads(file.read_text(encoding="utf-8"))["rows"] if given.add and file.exists() else []

    def tell(samples: Samples, commit: float) -> None:
        """After each round, so that a long measurement may be ended at any time."""
        without = ", no disk" if given.no_disk else ""
        measured = joined([*rows_of(samples, without), row(f"a commit{without}", "PostgreSQL", "ms", commit)], earlier)
        show(measured)
        print(f"\na commit took {commit:.2f} ms", flush=True)
        if given.save:
            versions = ", ".join(
                f"{name} {version}" for one in PEERS.values() for name, version in one.versions().items()
            )
            notes = [f"Versions: {versions}.", *NOTES]
            print(save("peers", "Against peers", measured, notes, keep=given.keep))

    graphs = SMALL if given.small else CASES
    asyncio.run(main(chosen, graphs, given.rounds, not given.no_disk, tell))
