"""The calculator of ``docs/scale.md`` adds up what was measured as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.capacity import BUSY, LINES, SERVER_FACTOR, Load, deployment, read_costs, spent, table

ONE = {
    "a node durable": 2.0,
    "a run durable": 10.0,
    "a node light": 1.0,
    "a run light": 40.0,
}
UNITS = [
    *(f"CPU ms of {part}" for part in ("worker", "api", "postgres", "temporal")),
    "transactions that write",
    "rows written",
    "bytes of WAL",
    "bytes stored",
    "events of history",
    "bytes of history",
]
COSTS = {case: dict.fromkeys(UNITS, value) for case, value in ONE.items()}


@pytest.mark.parametrize(("light", "expected"), [(0.0, 2.5), (1.0, 3.0), (0.25, 2.625)])
def test_a_node_bears_its_share_of_its_run(light: float, expected: float) -> None:
    """With twenty nodes a run, ten for the run are a half for each node; light ones bear two."""
    assert spent(COSTS, "rows written", Load(1, nodes_per_run=20, light=light)) == pytest.approx(expected)


def test_cores_are_those_of_the_peak_and_bytes_those_of_the_average() -> None:
    """Twice the peak, twice the cores; a day stores what the average brings."""
    found = deployment(COSTS, Load(100, peak=2, nodes_per_run=20))
    assert found.worker_cores == pytest.approx(100 * 2 * 2.5 / 1000 / BUSY)
    assert found.temporal_cores == pytest.approx(found.worker_cores * SERVER_FACTOR)
    assert found.stored_gb_per_day == pytest.approx(100 * 2.5 * 86_400 / 1e9)
    assert found.workers == 2  # never one: it may die


def test_what_is_kept_can_be_calculated_with() -> None:
    """The figures in the repository have all that the calculator needs, and it shows all of it."""
    told = table(Load(1), deployment(read_costs(), Load(1)))
    assert all(name in told for _, name, _ in LINES)


def test_the_page_names_the_figures_that_are_kept() -> None:
    """What a durable node costs a worker stands in the docs as it was measured last."""
    page = (Path(__file__).parent.parent / "docs/scale.md").read_text(encoding="utf-8")
    found = re.search(r"CPU of workers \| ([\d.]+) ms", page)
    assert found is not None
    assert float(found[1]) == pytest.approx(read_costs()["a node durable"]["CPU ms of worker"], abs=0.06)
