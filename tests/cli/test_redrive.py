"""``dalang redrive`` and ``dalang checkpoints`` on a real stack."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Dalang
from tests.harness import ROOT

pytestmark = pytest.mark.usefixtures("here")
Write = Callable[..., Path]
EXAMPLE = ROOT / "examples/redrive.yaml"


def _status(dalang: Dalang, run: str) -> dict[str, Any]:
    found: dict[str, Any] = dalang("status", run, "--json").json
    return found


def test_the_example_goes_on_with_another_card(dalang: Dalang, write: Write) -> None:
    """Declined, the run fails; redriven with another card it completes, and the seat was reserved once."""
    failed = dalang("run", EXAMPLE, "--input", 'card="0000"', "--json")
    assert failed.code == 1
    old = failed.json["runId"]
    file = write(json.dumps({"charge": {"card": "1111", "note": "x"}}), "inputs.json")
    done = dalang("redrive", old[:13], "--input", 'charge:card="4242"', "--inputs", file, "-r", "new card", "--watch")
    assert done.code == 0, done.err
    assert "COMPLETED" in done.out
    new = _status(dalang, "latest")
    assert new["redriveOf"] == old
    assert new["outputs"] == {"receipt": "paid 12A"}
    assert new["origin"]["inputs"] == {"charge": {"card": "4242", "note": "x"}}
    assert f"redrives {old}" in dalang("status", "latest").out
    assert f"redriven by {new['runId']}" in dalang("status", old).out
    again = dalang("redrive", old)
    assert (again.code, new["runId"] in again.err) == (1, True)


def test_what_cannot_be_redriven_says_why(dalang: Dalang, write: Write) -> None:
    """Usage errors end with 2, what does not fit the run's state with 1."""
    run = dalang("run", EXAMPLE, "--json").json["runId"]
    table: list[tuple[tuple[str, ...], int, str]] = [
        ((), 1, "nothing to redrive"),
        (("--from", "nobody"), 2, "no node 'nobody'"),
        (("--input", "card=1"), 2, "NODE:KEY=VALUE"),
        (("--inputs", str(write("{charge: 5}", "bad.yaml"))), 2, "'charge' has none"),
        (("--from", "ticket", "--input", "charge:card=1"), 2, "keeps its result"),
        (("--checkpoint", "zz"), 1, "no checkpoint"),
    ]
    for arguments, code, words in table:
        answer = dalang("redrive", run, *arguments)
        assert (answer.code, words in answer.err) == (code, True), (arguments, answer)


def test_checkpoints(dalang: Dalang) -> None:
    """Made, listed, started from, deleted."""
    run = dalang("run", EXAMPLE, "--json").json["runId"]
    assert "No checkpoint yet" in dalang("checkpoints", "list", run).err
    assert "after event" in dalang("checkpoints", "create", run, "done", "--note", "all of it").out
    listed = dalang("checkpoints", "list", run)
    assert "done" in listed.out
    assert "all of it" in listed.out
    redriven = dalang("redrive", run, "--checkpoint", "done", "--from", "ticket", "--json")
    assert redriven.code == 0
    assert dalang("watch", redriven.json["runId"]).code == 0
    assert dalang("checkpoints", "delete", run).code == 2
    assert "1 deleted" in dalang("checkpoints", "delete", run, "done").out
    assert "0 deleted" in dalang("checkpoints", "delete", run, "--before", "0s").out
