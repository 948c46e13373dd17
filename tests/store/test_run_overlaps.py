"""Runs that stand in several long lists: what is found, and in which order, is what a look at every run would find."""

from __future__ import annotations

from datetime import timedelta
from itertools import cycle, product
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store import run_lists, run_overlaps
from dalang.store.engine import transaction
from dalang.store.run_lists import RunFilter, list_runs
from dalang.store.runs import RunSummary
from tests.store.world import TENANT, World

RUNS = 36
ENDED = """
UPDATE execution_runs SET status = CASE WHEN priority % 5 < 2 THEN 'FAILED' ELSE 'CANCELLED' END, completed_at = now()
WHERE priority % 5 < 3
"""
BELOW = """
UPDATE execution_runs SET parent_run_id = :parent, parent_node_id = 'a', top_run_id = :parent
WHERE priority > 9 AND priority % 7 > 0
"""


async def listed(world: World, wanted: RunFilter, limit: int) -> list[RunSummary]:
    """All pages."""
    found, cursor = list[RunSummary](), None
    while True:
        async with transaction(world.engine, TENANT) as conn:
            page = await list_runs(conn, TENANT, wanted, limit=limit, cursor=cursor)
        found += page.items
        if page.cursor is None:
            return found
        cursor = page.cursor


async def test_what_several_lists_have_in_common(
    world: World, intruder: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever are asked for, page by page; also where all runs that were found first are of another kind."""
    parent = await world.run()
    for number in range(RUNS):
        about: dict[str, Any] = {"plan_name": f"plan {number % 2}", "created_by": f"person {number % 3}"}
        labels = {"team": f"t{number % 2}", "size": number % 3 % 2, "old": str(number < 9)}
        await world.run(priority=number, metadata=labels, **about)
    async with intruder.begin() as conn:
        await conn.execute(text(ENDED))
        await conn.execute(text(BELOW), {"parent": parent.run_id})
    everything = await listed(world, RunFilter(), 50)
    middle = everything[RUNS // 2].created_at
    calls = list[int]()
    real = run_lists.overlap

    async def noted(*arguments: Any) -> Any:
        calls.append(1)
        return await real(*arguments)

    monkeypatch.setattr(run_lists, "SHORT", 1)
    monkeypatch.setattr(run_lists, "overlap", noted)
    monkeypatch.setattr(run_overlaps, "MOST_KEYS", 3)
    labels = [(("team", "t1"),), (("team", "t1"), ("size", "1.0")), (("old", "True"), ("size", "0"), ("team", "t0"))]
    others: list[dict[str, Any]] = [
        {},
        {"statuses": ["FAILED"]},
        {"statuses": ["FAILED", "CANCELLED", "PAUSED"], "created_until": middle},
        {"created_by": "person 1"},
        {"created_by": "person 1", "statuses": ["PENDING"], "plan_name": "plan 1"},
        {"text": "PLAN", "created_from": middle - timedelta(microseconds=1)},
        {"parent_run_id": parent.run_id, "statuses": ["CANCELLED"]},
    ]
    for (of_label, other), children in zip(product(labels, others), cycle((True, False)), strict=False):
        wanted = RunFilter(labels=of_label, children=children, **other)
        found = await listed(world, wanted, 5)
        assert [run.run_id for run in found] == [run.run_id for run in everything if _is_wanted(run, wanted)], wanted
    assert len(calls) > len(labels) * len(others) / 2


def _is_wanted(run: RunSummary, wanted: RunFilter) -> bool:
    return (
        all(str(run.metadata.get(name)) in (value, value.removesuffix(".0")) for name, value in wanted.labels)
        and (not wanted.statuses or run.status in wanted.statuses)
        and (wanted.created_by in (None, run.created_by))
        and (wanted.plan_name in (None, run.plan_name))
        and (wanted.created_from is None or run.created_at >= wanted.created_from)
        and (wanted.created_until is None or run.created_at < wanted.created_until)
        and (wanted.parent_run_id is None or run.parent_run_id == wanted.parent_run_id)
        and (wanted.children or wanted.parent_run_id is not None or run.parent_run_id is None)
    )
