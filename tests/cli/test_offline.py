"""Commands that need no stack, and what holds for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dalang import __version__
from dalang.commands import app
from dalang.commands.client import server_sent
from dalang.commands.program import COMMANDS, GROUPS
from tests.cli.conftest import Dalang
from tests.harness import ROOT, requires_shared, shared_dir

DIAMOND = """\
name: diamond
description: Four nodes and a clean-up
timeout: 1h
inputs: {type: object, properties: {feature: {type: string}, size: {type: integer}}, required: [feature]}
nodes:
  - nodeId: fetch
    type: http
    inputs: {url: "http://127.0.0.1/${inputs.feature}"}
    requirements: {estimatedDuration: 90s}
  - {nodeId: left, type: sleep, inputs: {duration: 10m}}
  - {nodeId: right, type: noop, requirements: {estimatedDuration: 4m}}
  - {nodeId: join, type: noop}
edges:
  - {sourceNodeId: fetch, targetNodeId: left}
  - {sourceNodeId: fetch, targetNodeId: right}
  - {sourceNodeId: left, targetNodeId: join}
  - {sourceNodeId: right, targetNodeId: join}
finally:
  - {nodeId: tidy, type: noop}
"""
SHOWN = """\
diamond  1.0.0
Four nodes and a clean-up

nodes          4 (3 noop, 1 http, 1 sleep)
edges          4
levels         3, the widest is level 2 with 2 at once
estimated      11m30s, 15m30s one after the other (1 nodes without an estimate)
timeout        1h
critical path  fetch -> left -> join
finally        tidy
inputs         feature (required), size

LEVEL    NODE   TYPE   DURATION     SLACK  AFTER
1        fetch  http      1m30s  critical  -
2        left   sleep       10m  critical  fetch
         right  noop         4m        6m  fetch
3        join   noop          -  critical  left, right
finally  tidy   noop          -         -  -
"""
BROKEN = """\
name: broken
nodes:
  - nodeId: a
    type: noop
  - nodeId: b
    type: sleep
edges:
  - {sourceNodeId: a, targetNodeId: nowhere}
"""

Write = Callable[..., Path]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DALANG_HOME": "/nonexistent"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


def test_help_loads_nothing_heavy() -> None:
    """What makes `--help` slow is never imported for it."""
    script = (
        "import sys\nfrom dalang.commands.app import run\nrun(['--help'])\n"
        "heavy = {'pydantic', 'httpx', 'temporalio', 'sqlalchemy', 'fastapi', 'yaml', 'cel_expr_python', 'asyncio'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    answer = python("-c", script)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "loaded []"
    assert "Run plans" in answer.stdout


def test_a_shell_is_told_what_may_follow() -> None:
    """The names of all commands, and in a group those of its commands, without loading any others."""

    def told(line: str) -> list[str]:
        asked = {"_DALANG_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        script = "from dalang.cli import main\nmain()"
        command = [sys.executable, "-c", script]
        environment = {**os.environ, **asked}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert told("dalang ru") == ["run"]
    assert {"run", "tasks", "db", "up"} <= set(told("dalang "))
    assert told("dalang tasks c") == ["complete", "claim"]


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["status", "latest"], {"runs", "plans", "limits"}),
        (["plan", "validate", "examples/hello.yaml"], {"plans", "rehearse"}),
        (["token", "--help"], {"tokens"}),
    ],
    ids=lambda given: " ".join(given if isinstance(given, list) else sorted(given)),
)
def test_a_command_pays_for_what_it_uses(words: list[str], needed: set[str]) -> None:
    """It loads no commands but its own, and nothing of engine, store and API."""
    script = (
        "import sys\nfrom dalang.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('loaded', *sys.modules)\n"
    )
    loaded = set(python("-c", script, *words).stdout.splitlines()[-1].split())
    groups = {f"dalang.commands.{module}" for _, module, *_ in (*COMMANDS, *GROUPS)} | {"dalang.commands.plans"}
    assert loaded & groups == {f"dalang.commands.{name}" for name in needed}
    heavy = {"temporalio", "sqlalchemy", "fastapi", "asyncpg", "uvicorn", "cryptography", "click"}
    assert loaded & heavy == set()
    assert len(loaded) < 600


def test_version() -> None:
    """Both the program and the module say it."""
    answer = python("-m", "dalang.cli", "--version")
    assert (answer.returncode, answer.stdout) == (0, f"dalang {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["plan", "graph", "x.yaml", "--format", "png"],
        ["list", "--limit", "many"],
        ["status", "zz"],
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(dalang: Dalang, arguments: list[str]) -> None:
    """Also as JSON, on stderr."""
    said = dalang(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert "next:" in said.err
    error = json.loads(dalang(*arguments, "--json").err)["error"]
    assert error["code"] == "USAGE"
    assert error["exitCode"] == 2


def test_an_api_that_is_away_ends_with_4_and_the_way_to_start_it(
    dalang: Dalang, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that needs it says the same."""
    monkeypatch.setenv("DALANG_HOME", str(tmp_path))
    monkeypatch.setenv("DALANG_API_URL", "http://127.0.0.1:9")
    plan = write("name: x\nnodes: [{nodeId: a, type: noop}]\n")
    for arguments in (["list"], ["run", plan], ["plan", "list"], ["status", "latest"]):
        said = dalang(*arguments)
        assert said.code == 4
        assert "`dalang up`" in said.err
        assert json.loads(dalang(*arguments, "--json").err)["error"]["code"] == "UNREACHABLE"


def test_an_unknown_setting_is_named(dalang: Dalang, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the one that was meant."""
    monkeypatch.setenv("DALANG_API_PRT", "1")
    said = dalang("list")
    assert said.code == 2
    assert "DALANG_API_PORT" in said.err


def test_a_defect_shows_no_traceback(dalang: Dalang, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to a file that the message names."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("dalang.commands.plan_show.show", broken)
    said = dalang("plan", "show", write(DIAMOND))
    assert said.code == 1
    assert "ZeroDivisionError: by nought" in said.err
    path = Path(said.err.split("report it with ")[1].strip().rstrip("."))
    assert "Traceback" in path.read_text()
    path.unlink()


def test_show_is_what_people_read(dalang: Dalang, write: Write) -> None:
    """The golden text of a small plan."""
    said = dalang("plan", "show", write(DIAMOND))
    assert said.code == 0
    assert said.out == SHOWN


def test_show_as_json_has_stable_keys(dalang: Dalang, write: Write) -> None:
    """Durations are milliseconds."""
    found = dalang("plan", "show", write(DIAMOND), "--json").json
    assert found["criticalPath"] == ["fetch", "left", "join"]
    assert found["levels"] == [["fetch"], ["left", "right"], ["join"]]
    assert (found["estimatedDurationMs"], found["totalWorkMs"], found["widestLevel"]) == (690_000, 930_000, 2)
    assert found["slackMs"]["right"] == 360_000
    assert {"planId", "name", "version", "digest", "nodes", "edges", "depth", "types", "finally"} <= set(found)


def test_every_problem_is_shown_with_its_line(dalang: Dalang, write: Write) -> None:
    """File, line and pointer lead to each."""
    path = write(BROKEN)
    said = dalang("plan", "validate", path)
    assert said.code == 2
    assert f"{path}:8 /edges/0/targetNodeId  UNKNOWN_NODE" in said.err
    assert f"{path}:5 /nodes/1" in said.err
    assert said.out == f"{path}: 2 errors\n"
    found = dalang("plan", "validate", path, "--json").json
    assert found["valid"] is False
    assert {(one["code"], one["line"]) for one in found["problems"]} >= {("UNKNOWN_NODE", 8)}


def test_run_refuses_an_invalid_plan_before_it_asks_anybody(
    dalang: Dalang, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 although there is no API."""
    monkeypatch.setenv("DALANG_API_URL", "http://127.0.0.1:9")
    said = dalang("run", write(BROKEN))
    assert said.code == 2
    assert "UNKNOWN_NODE" in said.err
    missing = dalang("run", write(DIAMOND), "--input", "size=large")
    assert missing.code == 2
    assert "feature" in missing.err
    assert "size" in missing.err


def test_several_files_are_validated_at_once(dalang: Dalang, write: Write) -> None:
    """One invalid plan among them decides the exit code."""
    good, bad = write(DIAMOND, "good.yaml"), write(BROKEN, "bad.yaml")
    assert dalang("plan", "validate", good, good).code == 0
    assert dalang("plan", "validate", good, bad).code == 2


def test_text_that_is_no_plan_is_refused(dalang: Dalang, write: Write) -> None:
    """Malformed YAML and JSON, empty and missing files."""
    for text, name in (("a: [", "a.yaml"), ('{"a": 1,}', "a.json"), ("", "empty.yaml"), ("- 1", "list.yaml")):
        said = dalang("plan", "validate", write(text, name))
        assert said.code == 2
        assert name in said.err
    said = dalang("plan", "validate", "/no/such.yaml")
    assert said.code == 2
    assert "/no/such.yaml" in said.err


@pytest.mark.parametrize(("form", "begins"), [("mermaid", "flowchart"), ("dot", "digraph"), ("svg", "<svg")])
def test_pictures(dalang: Dalang, write: Write, tmp_path: Path, form: str, begins: str) -> None:
    """On standard output or in a file."""
    path = write(DIAMOND)
    said = dalang("plan", "graph", path, "--format", form)
    assert said.code == 0
    assert said.out.lstrip().startswith(begins)
    target = tmp_path / "picture"
    assert dalang("plan", "graph", path, "-f", form, "-o", target).out == ""
    assert target.read_text() == said.out


def test_the_schema_is_json(dalang: Dalang) -> None:
    """It describes plans by their wire names."""
    found = dalang("plan", "schema").json
    assert {"nodes", "edges", "failurePolicy"} <= set(found["properties"])


def test_names_cannot_steer_the_terminal(dalang: Dalang, write: Write) -> None:
    """Neither as text nor as JSON."""
    path = write('{"name": "a\\u001b[31m\\u009b\\u202eb", "nodes": [{"nodeId": "x", "type": "noop"}]}', "p.json")
    for arguments in (["plan", "show", path], ["plan", "show", path, "--json"]):
        out = dalang(*arguments).out
        assert not set(out) & {"\x1b", "\x9b", "\u202e"}


def test_streams_are_split_at_the_ends_of_lines_alone() -> None:
    """Whatever the pieces in which they arrive, and whatever ends their lines."""
    first, second, third = (
        ": hello\r\nid: 0.1\ndata: a\u2028b\u0085c\n\n",
        "id: 0.2\r\ndata: d\r\ndata: e\r\n\r\n",
        "id: 0.3\rdata: f\r\r\n",
    )
    text = f"{first}{second}{third}".encode()
    expected = [("0.1", "a\u2028b\u0085c"), ("0.2", "d\ne"), ("0.3", "f")]
    for size in (1, 2, 3, 7, len(text)):
        assert list(server_sent(text[at : at + size] for at in range(0, len(text), size))) == expected


def test_output_that_nobody_reads_or_can_encode_is_no_error() -> None:
    """`dalang ... | head` ends quietly, and so does a terminal that knows ASCII only."""
    command = f"{sys.executable} -m dalang.cli plan schema | head -1"
    answer = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("{\n", "")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    plan = '{"name": "ꦢꦭꦁ", "nodes": [{"nodeId": "x", "type": "noop"}]}'
    command_line = [sys.executable, "-m", "dalang.cli", "plan", "show", "-"]
    shown = subprocess.run(
        command_line, cwd=ROOT, env=environment, input=plan.encode(), capture_output=True, timeout=60
    )
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.startswith(b"???")


@requires_shared
def test_the_real_instances_are_imported_and_valid(dalang: Dalang, tmp_path: Path) -> None:
    """All six of WfCommons, each to a file that validates."""
    shared = shared_dir()
    assert shared is not None
    files = sorted((shared / "instances").glob("*.json"))
    assert len(files) == 6
    for file in files:
        target = tmp_path / f"{file.stem}.json"
        said = dalang("plan", "import", "--from", "wfformat", file, "--time-scale", "0.001", "-o", target)
        assert said.code == 0, said.err
        found = dalang("plan", "validate", target, "--json")
        assert (found.code, found.json["valid"]) == (0, True)


@requires_shared
def test_the_real_agent_plans_are_imported_and_valid(dalang: Dalang, tmp_path: Path) -> None:
    """All 25 into a folder; one of them, selected, to standard output."""
    shared = shared_dir()
    assert shared is not None
    file = shared / "agent-plans.json"
    assert dalang("plan", "import", "--from", "agent-plans", file).code == 2
    assert dalang("plan", "import", "--from", "agent-plans", file, "-o", tmp_path / "plans").code == 0
    written = sorted((tmp_path / "plans").glob("*.yaml"))
    assert len(written) == 25
    assert dalang("plan", "validate", *written).code == 0
    plans = dalang("plan", "import", "--from", "agent-plans", file, "--json").json["plans"]
    one = dalang("plan", "import", "--from", "agent-plans", file, "--select", plans[3]["name"])
    assert one.code == 0
    assert plans[3]["name"] in one.out


def test_an_instance_says_how_it_is_imported(dalang: Dalang, write: Write) -> None:
    """Rather than that it has no nodes."""
    said = dalang("run", write('{"name": "x", "workflow": {"tasks": []}}', "x.json"))
    assert said.code == 2
    assert "--from wfformat" in said.err


def test_a_policy_is_checked_with_all_its_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before a process is given it."""
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{name: a, effect: deny}]")
    assert app.run(["policy", "check", str(file)]) == 0
    assert "1 rule, default allow" in capsys.readouterr().out
    file.write_text("default: x\nrules: [{name: a, effect: deny, when: '1 +'}, 7]")
    assert app.run(["policy", "check", str(file)]) == 1
    told = capsys.readouterr().out
    assert [place for place in ("/default", "/rules/0/when", "/rules/1:") if place not in told] == []
