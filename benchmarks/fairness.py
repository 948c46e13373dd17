"""Who runs when, where two tenants compete: one with 1,000 nodes, and two seconds later one with 10.

``python benchmarks/fairness.py [--svg docs/performance/places.svg]`` runs the same load in turns: with one fairness key
for both (the order of arrival), with Temporal's fairness keys, without and with eager activities, and with leases of a
pool as large as the worker, once with equal weights, once with three parts for the large tenant. It prints when the
small tenant's last node ended, and draws who had which of the eight places when.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import arguments, row, save
from dalang.launch import Launcher, TemporalLink
from dalang.nodes import NodeContext, node
from dalang.plan import Plan, with_derived_ids
from dalang.settings import Settings
from dalang.stack.supervisor import on_free_ports, stack
from dalang.store.engine import create_engine, system_transaction
from dalang.store.pools import delete_pool, delete_quota, put_pool, put_quota
from dalang.store.runs import NewRun
from dalang.worker import worker
from dalang.workflows import dispatch

PLACES = 8
NODE_SECONDS = 0.1
LARGE_RUNS, LARGE_NODES = 10, 100
SMALL_NODES = 10
LATER_SECONDS = 2.0
POOL = "places"


@dataclass
class Scenario:
    """How the load is run, and what came of it: (tenant, begin, end) of each node, in seconds after the start."""

    title: str
    eager: int = 0
    keys: bool = True
    weights: Mapping[str, float] | None = None
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    small_began: float = 0.0

    @property
    def small_ended(self) -> float:
        """When the last node of the small tenant ended."""
        return max(end for tenant, _, end in self.spans if tenant == "small")

    @property
    def large_ended(self) -> float:
        """When the last node of the large tenant ended."""
        return max(end for tenant, _, end in self.spans if tenant == "large")


SCENARIOS = (
    Scenario("in the order of arrival (one fairness key)", keys=False),
    Scenario("Temporal's fairness keys, no eager activities"),
    Scenario("Temporal's fairness keys, eager activities", eager=100),
    Scenario("leases, equal weights", eager=100, weights={"large": 1, "small": 1}),
    Scenario("leases, three parts to one", eager=100, weights={"large": 3, "small": 1}),
)
_now: list[Scenario] = []
_start = 0.0


@node("bench-fair")
async def fair(ctx: NodeContext) -> dict[str, Any]:
    """Work for a while, and note when and for whom."""
    began = time.perf_counter() - _start
    await asyncio.sleep(NODE_SECONDS)
    _now[0].spans.append((ctx.name, began, time.perf_counter() - _start))
    return {}


def plan_of(tenant: str, nodes: int, leased: bool) -> Plan:
    """Nodes without edges, which tell whose they are by their names."""
    needs = {"requirements": {"pools": {POOL: 1}}} if leased else {}
    made = [{"nodeId": f"n{at}", "name": tenant, "type": "bench-fair", **needs} for at in range(nodes)]
    return with_derived_ids(Plan.model_validate({"name": f"{tenant}-{nodes}-{leased}", "nodes": made}))


async def measure(scenario: Scenario, settings: Settings) -> None:
    """Run the load once."""
    global _start
    engine = create_engine(settings)
    async with system_transaction(engine) as conn:
        await delete_pool(conn, "", POOL)
        for tenant, weight in (scenario.weights or {}).items():
            empty = {"max_nodes": None, "cpu_cores": None, "memory_mb": None}
            await put_quota(conn, {**empty, "tenant_id": tenant, "weight": weight, "updated_by": "bench"})
        if scenario.weights is not None:
            limits = {"size": float(PLACES), "rate": None, "burst": None}
            about = {"tenant_id": "", "name": POOL, "description": "", "updated_by": "bench"}
            await put_pool(conn, {**limits, **about})
    # What stores events, and asks for leases, takes places of the worker, too.
    slots = PLACES if scenario.weights is None else 100
    changes = {"max_eager_activities": scenario.eager, "max_concurrent_activities": slots}
    settings = settings.model_copy(update={**changes, "task_queue": scenario.title})
    one_key = dispatch.temporal_priority(0, "everybody")
    keys = mock.patch.object(dispatch, "temporal_priority", return_value=one_key)
    _now[:] = [scenario]
    async with worker(settings):
        launcher = Launcher(settings, engine, TemporalLink(settings, engine))
        if not scenario.keys:
            keys.start()
        _start = time.perf_counter()
        leased = scenario.weights is not None
        ends = [asyncio.create_task(_run(launcher, "large", LARGE_NODES, leased)) for _ in range(LARGE_RUNS)]
        await asyncio.sleep(LATER_SECONDS)
        scenario.small_began = time.perf_counter() - _start
        ends.append(asyncio.create_task(_run(launcher, "small", SMALL_NODES, leased)))
        await asyncio.gather(*ends)
        if not scenario.keys:
            keys.stop()
    async with system_transaction(engine) as conn:
        for tenant in scenario.weights or {}:
            await delete_quota(conn, tenant)
    await engine.dispose()


async def _run(launcher: Launcher, tenant: str, nodes: int, leased: bool) -> None:
    plan = plan_of(tenant, nodes, leased)
    prepared = await launcher.preparations.of_plan(plan)
    new = NewRun(
        tenant_id=tenant,
        plan_id=prepared.plan_id,
        plan_name=plan.name,
        plan_version=plan.version,
        plan_digest=prepared.digest,
        created_by="bench",
        total_nodes=nodes,
        inputs={},
    )
    run = await launcher.accept(new, plan)
    await launcher.start(run, prepared)
    client = await launcher._link.client()
    await client.get_workflow_handle(run.workflow).result()


# -- the picture -------------------------------------------------------------------------------------------------------

_WIDTH, _ROW, _LEFT, _TOP, _GAP = 900, 9, 24, 56, 54
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}.ground{fill:#fff}"
    ".a{fill:#9db7d5}.b{fill:#d1242f}.line{stroke:#57606a;stroke-dasharray:3 3}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}.a{fill:#3b5678}"
    ".b{fill:#ff7b72}.line{stroke:#9198a1}}"
)


def lanes(spans: Sequence[tuple[str, float, float]]) -> list[list[tuple[str, float, float]]]:
    """Put spans into as few lanes as do not overlap."""
    found: list[list[tuple[str, float, float]]] = []
    for span in sorted(spans, key=lambda one: one[1]):
        lane = next((lane for lane in found if lane[-1][2] <= span[1] + 0.002), None)
        if lane is None:
            found.append([span])
        else:
            lane.append(span)
    return found


def svg(scenarios: Sequence[Scenario]) -> str:
    """Draw who had which place when: a band for each scenario, time from left to right."""
    parts, y = list[str](), _TOP
    for one in scenarios:
        scale = (_WIDTH - 2 * _LEFT) / max(one.large_ended, one.small_ended)
        rows = lanes(one.spans)
        took = one.small_ended - one.small_began
        parts.append(f'<text x="{_LEFT}" y="{y}">{one.title}</text>')
        note = f"{took:.1f} s for the {SMALL_NODES} nodes, {one.large_ended:.0f} s for all"
        parts.append(f'<text class="small" x="{_WIDTH - _LEFT}" y="{y}" text-anchor="end">{note}</text>')
        y += 8
        marks: dict[str, list[str]] = {"a": [], "b": []}
        for lane in rows:
            for tenant, begin, end in lane:
                width = max((end - begin) * scale - 0.5, 1)
                mark = f"M{_LEFT + begin * scale:.1f} {y}h{width:.1f}v{_ROW - 1}h-{width:.1f}z"
                marks["b" if tenant == "small" else "a"].append(mark)
            y += _ROW
        parts += [f'<path class="{kind}" d="{"".join(drawn)}"/>' for kind, drawn in marks.items()]
        for at in (one.small_began, one.small_ended):
            x = _LEFT + at * scale
            parts.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{y - len(rows) * _ROW - 4}" y2="{y + 3}"/>')
        y += _GAP - 8
    heading = f"{LARGE_RUNS * LARGE_NODES:,} nodes of one tenant, and {SMALL_NODES} of another two seconds later"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y - 10}" width="{_WIDTH}" role="img">'
        f"<title>{heading}</title><style>{_STYLE}</style>"
        f'<rect class="ground" width="100%" height="100%"/><text x="{_LEFT}" y="26">{heading}; a row is a place</text>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


async def main() -> None:
    """Measure in turns and tell."""
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder), graceful_shutdown_seconds=1))
        async with stack(settings, frozenset({"postgres", "temporal"}), durable=False) as running:
            for scenario in SCENARIOS:
                await measure(scenario, running.settings)
                took = scenario.small_ended - scenario.small_began
                print(f"{scenario.title:<48} small {took:5.1f} s   all {scenario.large_ended:5.1f} s", flush=True)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--svg", type=Path, help="Where to draw the picture.")
    wanted = parser.parse_args()
    asyncio.run(main())
    if wanted.svg is not None:
        wanted.svg.write_text(svg(SCENARIOS), encoding="utf-8")
    if wanted.save:
        ends = [
            found
            for one in SCENARIOS
            for found in (
                row(one.title, "the small tenant", "s", one.small_ended - one.small_began),
                row(one.title, "all", "s", one.large_ended),
            )
        ]
        save("fairness", "Two tenants compete for eight places", ends, ["Measured once each."])
