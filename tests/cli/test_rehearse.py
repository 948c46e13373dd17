"""``dalang plan rehearse``, which needs no stack."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dalang.commands import rehearsal_show
from dalang.loading import load_plan
from dalang.rehearsal import load_options, rehearse
from tests.cli.conftest import Dalang
from tests.harness import ROOT

Write = Callable[..., Path]
SEQUENCE = """\
name: sequence
nodes:
  - {nodeId: boil, type: sleep, inputs: {duration: 3m}}
  - {nodeId: steep, type: agent, requirements: {estimatedDuration: 2m, capabilities: [tea]}}
  - {nodeId: toast, type: agent, requirements: {estimatedDuration: 4m, capabilities: [tea]}}
  - {nodeId: eat, type: noop}
edges:
  - {sourceNodeId: boil, targetNodeId: steep}
  - {sourceNodeId: steep, targetNodeId: eat}
  - {sourceNodeId: toast, targetNodeId: eat}
"""
SHOWN = """\
sequence  1.0.0

rehearsals     1: nothing is left to chance, each would be the same
ends           COMPLETED 100%
makespan       6m
bottleneck     agent tea: 100% in use, nodes wait 1m for it in all

RESOURCE   CAPACITY  IN USE  WAITS  WAITING
agent tea         1    100%   1.00       1m

NODE   RUNS  START  END  WAITS  RETRIES  CRITICAL  OTHERWISE
boil   100%      0   3m      -        -        0%  -
steep  100%     4m   6m     1m        -      100%  -
toast  100%      0   4m      -        -      100%  -
eat    100%     6m   6m      -        -      100%  -

the rehearsal: COMPLETED after 6m
toast  █████████████████████████████████████████████████                              4m
boil   █████████████████████████████████████                                          3m
steep                                      ░░░░░░░░░░░░█████████████████████████      2m
eat                                                                            █       0
█ works  ░ waits for a slot, an agent or a pool  ▒ fails  · before a retry
"""


def test_a_rehearsal_is_shown_with_a_chart(dalang: Dalang, write: Write) -> None:
    """Figures, resources, nodes, and who works and waits when."""
    said = dalang("plan", "rehearse", write(SEQUENCE), "--agents", "tea=1")
    assert (said.code, said.err) == (0, "")
    assert said.out == SHOWN


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_chart_fits_the_terminal(width: int) -> None:
    """Also a narrow one, and one without block characters."""
    plan = load_plan((ROOT / "examples" / "conditions.yaml").read_bytes()).require()
    summary = rehearse(plan, load_options({"runs": 20, "types": {"agent": {"failures": 0.4}}}))
    text = io.StringIO()
    out = Console(file=text, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    rehearsal_show.chart(out, summary, summary.worst)
    lines = text.getvalue().splitlines()[1:-1]
    assert len(lines) == len(summary.worst.nodes)
    assert max(map(len, lines)) <= width


def test_the_example_as_json(dalang: Dalang) -> None:
    """The file's options hold, the command line goes before them, and the worst is found again by its seed."""
    command = [
        "plan",
        "rehearse",
        ROOT / "examples/rehearsal.yaml",
        "--options",
        ROOT / "examples/rehearsal-options.yaml",
    ]
    found = dalang(*command, "--runs", "100", "--agents", "coder=1", "--json").json
    assert (found["runs"], found["seed"], found["warnings"]) == (100, 7, [])
    coder = next(one for one in found["resources"] if one["name"] == "agent coder")
    assert coder["capacity"] == 1
    worst = found["worst"]
    again = dalang(*command, "--runs", 1, "--seed", worst["seed"], "--agents", "coder=1", "--json").json
    assert again["makespanMs"]["p50"] == worst["makespanMs"] == found["makespanMs"]["max"]
    assert again["worst"] == worst


def test_what_was_assumed_is_told(dalang: Dalang) -> None:
    """On stderr, with code, place and line; as JSON among the rest."""
    said = dalang("plan", "rehearse", ROOT / "examples/conditions.yaml", "--runs", 5)
    assert said.code == 0
    assert "ASSUMED_CONDITION" in said.err
    assert "'review' that nobody gave" in said.err
    found = dalang("plan", "rehearse", ROOT / "examples/conditions.yaml", "--runs", 5, "--json")
    assert found.err == ""
    assert {one["code"] for one in found.json["warnings"]} == {
        "ASSUMED_CONDITION",
        "ASSUMED_INPUTS",
        "ASSUMED_DURATION",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--duration", "nobody=3s"], "USAGE", "neither a node nor a node type"),
        (["--duration", "boil"], "USAGE", "is not NODE=TIME"),
        (["--duration", "boil=often"], "INVALID_REHEARSAL", "rehearsal file"),
        (["--fail", "steep=many"], "USAGE", "no number"),
        (["--fail", "steep=0.5:OOPS"], "INVALID_REHEARSAL", "rehearsal file"),
        (["--runs", "0"], "INVALID_REHEARSAL", "rehearsal file"),
        (["--agents", "tea=1.5"], "INVALID_REHEARSAL", "rehearsal file"),
        (["--options", "nowhere.yaml"], "NO_FILE", "nowhere.yaml"),
    ],
)
def test_wrong_options_end_with_2(dalang: Dalang, write: Write, arguments: list[str], code: str, words: str) -> None:
    """And name what is wrong."""
    said = dalang("plan", "rehearse", write(SEQUENCE), *arguments, "--json")
    assert (said.code, said.out) == (2, "")
    error = json.loads(said.err)["error"]
    assert error["code"] == code
    assert words in error["message"]


def test_an_invalid_plan_ends_with_2(dalang: Dalang, write: Write) -> None:
    """With its problems, as everywhere."""
    said = dalang("plan", "rehearse", write("name: x\nnodes: []\n"))
    assert said.code == 2
    assert "error" in said.err
