"""``dalang replan`` and ``dalang revisions`` on a real stack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Dalang
from tests.harness import ROOT

pytestmark = pytest.mark.usefixtures("here")
Write = Callable[..., Path]
PLAN, PATCH = ROOT / "examples/replan.yaml", ROOT / "examples/replan-patch.yaml"


def test_the_example_is_checked_before_it_is_published(dalang: Dalang, write: Write) -> None:
    """The patch reaches the run while it waits; its history says who changed what; watching follows it."""
    run = dalang("start", PLAN, "--json").json["runId"]
    dry = dalang("replan", run, "--patch", PATCH, "--dry-run")
    assert (dry.code, "could go on as revision 2" in dry.out) == (0, True), dry
    done = dalang("replan", run, "--patch", PATCH, "-r", "unread", "--revision", 1)
    assert done.code == 0, done.err
    assert "The plan is at revision 2" in done.out
    assert "+ node check" in done.out
    assert "- edge draft->publish" in done.out
    late = dalang("replan", run, "--patch", PATCH, "--revision", 1)
    assert (late.code, "not at 1" in late.err) == (1, True), late
    listed = dalang("revisions", run)
    assert "unread" in listed.out
    assert "2 edges added, 1 node added, 1 edge removed" in listed.out
    assert "~ node publish" in dalang("revisions", run, 2).out
    watched = dalang("watch", run)
    assert (watched.code, "PLAN_REVISED" in watched.out) == (0, True), watched
    found = dalang("status", run, "--json").json
    assert found["outputs"] == {"article": {"channel": "newsletter", "long": True, "title": "Tea", "words": 700}}
    assert found["totalNodes"] == 4


def test_what_is_refused(dalang: Dalang, write: Write) -> None:
    """Usage errors and bad patches end with 2 and the place, what does not fit what has happened with 1."""
    run = dalang("start", PLAN, "--json").json["runId"]
    table: list[tuple[tuple[object, ...], int, str]] = [
        ((), 2, "either --patch FILE or --plan FILE"),
        (("--patch", "nowhere.yaml"), 2, "no file"),
        (("--patch", write("removeNodes: [publish]", "a.yaml")), 2, "/patch/removeNodes/0"),
        (("--patch", write("changeInputs: {nix: {}}", "b.yaml")), 2, "no node `nix`"),
        (("--plan", write("{name: other, nodes: [{nodeId: a, type: noop}]}", "c.yaml")), 2, "stays with its plan"),
        (("--patch", write("changeInputs: {draft: {words: 1}}", "d.yaml")), 1, "node draft is SUCCESS"),
    ]
    while dalang("nodes", run, "draft", "--json").json["status"] != "SUCCESS":
        pass
    dalang("pause", run)  # the table may take longer than the plan
    for arguments, code, words in table:
        answer = dalang("replan", run, *arguments)
        assert (answer.code, words in answer.err) == (code, True), (arguments, answer)
    assert dalang("cancel", run).code == 0
