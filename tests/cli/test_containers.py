"""Runs below nodes on the command line."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Dalang
from tests.harness import ROOT

pytestmark = pytest.mark.usefixtures("here")


def test_runs_below_nodes_are_found_and_shown(dalang: Dalang) -> None:
    """From above and from below; lists show them when asked, and the run of a map has all its elements."""
    ran = dalang("run", ROOT / "examples/map.yaml", "--json")
    assert ran.code == 0, ran.err
    run = ran.json["runId"]
    (below,) = dalang("list", "--parent", run, "--json").json["items"]
    assert (below["parentNodeId"], below["elements"], below["totalNodes"]) == ("charge", 4, 4)
    assert below["runId"] not in [one["runId"] for one in dalang("list", "--json").json["items"]]
    assert below["runId"] in [one["runId"] for one in dalang("list", "--children", "--json").json["items"]]
    status = dalang("status", run).out
    assert f"{below['runId'][:8]} COMPLETED" in status
    assert f"node charge of run {run}" in dalang("status", below["runId"][:13]).out
    assert below["runId"] in dalang("nodes", run, "charge").out
    nodes = dalang("nodes", below["runId"], "--json").json["items"]
    assert [(one["nodeId"], one["type"], one["status"]) for one in nodes] == [
        ("0", "python", "SUCCESS"),
        ("1", "python", "SUCCESS"),
        ("2", "python", "FAILED"),
        ("3", "python", "SUCCESS"),
    ]
    watched = dalang("watch", below["runId"])
    assert watched.code == 0
    assert dalang("status", "latest", "--json").json["runId"] == run
