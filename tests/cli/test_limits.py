"""``dalang pools``, ``quotas`` and ``queue`` on a real stack."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Dalang

pytestmark = pytest.mark.usefixtures("here")
Write = Callable[..., Path]
PLAN = """
name: two
nodes:
  - {nodeId: a, type: python, handler: demo-import, inputs: {rows: 10, seconds: 600}, requirements: {pools: {desk: 1}}}
  - {nodeId: b, type: python, handler: demo-import, inputs: {rows: 10, seconds: 600}, requirements: {pools: {desk: 1}}}
"""


def test_pools_and_the_queue(dalang: Dalang, write: Write) -> None:
    """A node waits, says for what and where, and is gone from the queue with its run."""
    assert dalang("pools", "set", "desk").code == 2
    made = dalang("pools", "set", "desk", "--size", "1", "--description", "one at a time")
    assert (made.code, made.out) == (0, "pool desk: 1 at once\n")
    assert dalang("pools", "set", "calls", "--rate", "5", "--json").json["burst"] == 5
    run = dalang("start", write(PLAN)).out.strip()
    while [one["position"] for one in dalang("queue", run, "--json").json["items"]] != [1]:
        time.sleep(0.1)
    queue = dalang("queue", run)
    assert "pool desk" in queue.out
    assert "1 wait, 1 hold a lease" in dalang("queue").err
    for command in (("status", run), ("nodes", run)):
        assert "place 1, waits for pool desk" in dalang(*command).out
    listed = dalang("pools", "list").out
    assert "5/s, 5 at once" in listed
    assert next(line.split()[:6] for line in listed.splitlines() if line.startswith("desk")) == [
        "desk",
        "1",
        "1",
        "0",
        "100",
        "1",
    ]
    assert dalang("cancel", run).code == 0
    while dalang("queue", "--json").json["size"]:
        time.sleep(0.1)
    assert "Nobody waits" in dalang("queue").err
    assert dalang("pools", "delete", "desk").code == 0
    gone = dalang("pools", "delete", "desk")
    assert (gone.code, "no pool 'desk'" in gone.err) == (1, True)
    dalang("pools", "delete", "calls")


def test_a_warning_of_what_cannot_be_had(dalang: Dalang, write: Write) -> None:
    """At push and at start."""
    dalang("pools", "set", "gpu", "--size", "1", "--shared")
    plan = write(
        "name: big\nnodes: [{nodeId: a, type: python, handler: demo-import, inputs: {rows: 1},"
        " requirements: {resources: {gpu: 2}}}]"
    )
    assert "LARGER_THAN_POOL" in dalang("plan", "push", plan).err
    ran = dalang("run", plan)
    assert ("LARGER_THAN_POOL" in ran.err, ran.code) == (True, 1)
    assert dalang("pools", "delete", "gpu", "--shared").code == 0


def test_quotas(dalang: Dalang) -> None:
    """Shown, set, cleared."""
    assert "no limit" in dalang("quotas", "show").out
    assert dalang("quotas", "set", "--nodes", "9", "--weight", "2", "--json").json["maxNodes"] == 9
    assert "9" in dalang("quotas", "show").out
    assert dalang("quotas", "clear").code == 0
    assert dalang("quotas", "clear").code == 1
