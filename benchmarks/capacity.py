"""How large a deployment has to be: from what a run and a node cost (``costs.py``) and what is asked of it.

``python benchmarks/capacity.py --nodes-per-day 1000000`` (or ``--nodes-per-second 10000 --light 1``) prints
processes, cores, transactions, bytes and Temporal's work. ``docs/scale.md`` says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import RESULTS

DAY = 86_400
BUSY = 0.6
"""The share of a core that is planned to be busy at the peak; the rest is for what the average does not tell."""
SERVER_FACTOR = 3.0
"""A Temporal cluster with a database of its own needs about so much more processor time than the development server
with SQLite, for services that talk over the network and for its database. An assumption: measure yours."""
EVENTS_PER_SHARD = 20.0
"""History events a second that one shard of a Temporal cluster is planned for; a shard writes one after the other."""

Costs = Mapping[str, Mapping[str, float]]
"""What is spent (``CPU ms of worker``, ``bytes of WAL``), by ``a run light``, ``a node durable`` and so on."""


@dataclass(frozen=True)
class Load:
    """What is asked: nodes a second on the average, times at the peak, nodes of a run, the share of light ones."""

    nodes_per_second: float
    peak: float = 4.0
    nodes_per_run: float = 20.0
    light: float = 0.0


@dataclass(frozen=True)
class Deployment:
    """What it takes at the peak: cores, and processes of one core each; the rest a second at the peak, or a day."""

    runs_per_second: float
    worker_cores: float
    api_cores: float
    postgres_cores: float
    temporal_cores: float
    workers: int
    apis: int
    transactions: float
    rows: float
    wal_mb_per_second: float
    events: float
    shards: int
    actions: float
    stored_gb_per_day: float
    history_gb_per_day: float


def read_costs(file: Path = RESULTS / "costs.json") -> Costs:
    """Return what was measured last."""
    found: dict[str, dict[str, float]] = {}
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        found.setdefault(f"{row['case']} {row['subject']}", {})[row["unit"]] = row["median"]
    return found


def spent(costs: Costs, what: str, load: Load) -> float:
    """What one node costs on the average, with its share of what its run costs."""

    def of(way: str) -> float:
        return costs[f"a node {way}"][what] + costs[f"a run {way}"][what] / load.nodes_per_run

    return load.light * of("light") + (1 - load.light) * of("durable")


def deployment(costs: Costs, load: Load) -> Deployment:
    """Return what such a load takes."""
    peak = load.nodes_per_second * load.peak

    def cores(part: str) -> float:
        return spent(costs, f"CPU ms of {part}", load) / 1000 * peak / BUSY

    worker, api = cores("worker"), cores("api")
    events = spent(costs, "events of history", load) * peak
    # A durable node is one action, a light run one for all; a run is its start, its timer and the upsert of its status.
    actions = (1 - load.light) + (3 + load.light) / load.nodes_per_run
    return Deployment(
        runs_per_second=peak / load.nodes_per_run,
        worker_cores=worker,
        api_cores=api,
        postgres_cores=cores("postgres"),
        temporal_cores=cores("temporal") * SERVER_FACTOR,
        workers=max(math.ceil(worker), 2),
        apis=max(math.ceil(api), 2),
        transactions=spent(costs, "transactions that write", load) * peak,
        rows=spent(costs, "rows written", load) * peak,
        wal_mb_per_second=spent(costs, "bytes of WAL", load) * peak / 1e6,
        events=events,
        shards=2 ** max(math.ceil(math.log2(events / EVENTS_PER_SHARD)), 2),
        actions=actions * peak,
        stored_gb_per_day=spent(costs, "bytes stored", load) * load.nodes_per_second * DAY / 1e9,
        history_gb_per_day=spent(costs, "bytes of history", load) * load.nodes_per_second * DAY / 1e9,
    )


LINES = (
    ("runs_per_second", "runs started a second", ",.1f"),
    ("workers", "worker processes, a core each", ",d"),
    ("worker_cores", "cores of workers", ",.1f"),
    ("apis", "API processes, a core each", ",d"),
    ("api_cores", "cores of the API", ",.1f"),
    ("postgres_cores", "cores of PostgreSQL", ",.1f"),
    ("transactions", "transactions that write, a second", ",.0f"),
    ("rows", "rows written a second", ",.0f"),
    ("wal_mb_per_second", "MB of WAL a second", ",.2f"),
    ("stored_gb_per_day", "GB stored a day (on the average)", ",.1f"),
    ("temporal_cores", "cores of Temporal, with its database", ",.1f"),
    ("events", "history events a second", ",.0f"),
    ("shards", "history shards", ",d"),
    ("actions", "actions a second (Temporal Cloud)", ",.0f"),
    ("history_gb_per_day", "GB of history a day (on the average)", ",.1f"),
)


def table(load: Load, found: Deployment) -> str:
    """Return it for people, in Markdown."""
    asked = (
        f"{load.nodes_per_second:,.1f} nodes a second on the average, {load.nodes_per_second * load.peak:,.1f} at the "
        f"peak; {load.nodes_per_run:g} nodes a run, {load.light:.0%} of them light"
    )
    lines = [asked, "", "| at the peak | |", "| --- | ---: |"]
    lines += [f"| {name} | {getattr(found, field):{form}} |" for field, name, form in LINES]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--nodes-per-day", type=float, default=0.0)
    asked.add_argument("--nodes-per-second", type=float, default=0.0)
    parser.add_argument("--peak", type=float, default=4.0, help="Times the average at the busiest time.")
    parser.add_argument("--nodes-per-run", type=float, default=20.0)
    parser.add_argument("--light", type=float, default=0.0, help="The share of nodes with `execution: local`.")
    given = parser.parse_args()
    rate = given.nodes_per_second or given.nodes_per_day / DAY
    load = Load(rate, given.peak, given.nodes_per_run, given.light)
    print(table(load, deployment(read_costs(), load)))
