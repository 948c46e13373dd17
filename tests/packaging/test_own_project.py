"""Dalang beside a project of the user's that has folders with the names of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.harness import ROOT

PROGRAM = """
import json, sys
from dalang.activities.catalogue import load_node_modules
from dalang.nodes import registry
load_node_modules(["activities.mail", "api.hooks"])
import activities.mail, api.hooks, dalang.activities.http, dalang.api.app, dalang.workflows.plan_run
print(json.dumps({
    "types": sorted(registry.node_types),
    "mail": activities.mail.__file__,
    "http": dalang.activities.http.__file__,
}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the packages ``activities`` and ``api``, which register node types and use each other."""
    for package in ("activities", "api"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "activities" / "mail.py").write_text(
        "from dalang.nodes import node\n\n@node\ndef send_mail(to: str) -> dict:\n    return {'to': to}\n"
    )
    (tmp_path / "api" / "hooks.py").write_text(
        "from activities.mail import send_mail\nfrom dalang.nodes import node\n\n"
        "@node('call-hook')\nasync def call_hook(url: str) -> dict:\n    return send_mail(url)\n"
    )
    return tmp_path


def test_a_project_keeps_its_own_activities_and_api(project: Path) -> None:
    """Node modules named like our folders are the project's; ours are found under dalang only."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=project, capture_output=True, text=True, check=True, env=_clean()
    )
    told = json.loads(found.stdout)
    assert told["types"] == ["call-hook", "send-mail"]
    assert told["mail"] == str(project / "activities" / "mail.py")
    assert Path(told["http"]).parts[-3:] == ("dalang", "activities", "http.py")


def test_a_command_started_in_a_project_finds_its_modules(project: Path) -> None:
    """The installed script `dalang` validates a plan with the types that the folder's modules register."""
    (project / "plan.yaml").write_text("name: mail\nnodes: [{nodeId: a, type: send-mail, inputs: {to: me}}]\n")
    script = Path(sys.executable).parent / "dalang"
    found = subprocess.run(
        [script, "plan", "validate", "plan.yaml"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env={**_clean(), "DALANG_NODE_MODULES": "activities.mail"},
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_wheel_holds_nothing_outside_of_dalang(tmp_path: Path) -> None:
    """What is installed is the package dalang alone, with everything that it needs at run time."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"dalang"}
    needed = [
        "workflows/plan_run.py",
        "activities/http.py",
        "api/app.py",
        "api/static",
        "api/ui/static/app.js",
        "api/ui/templates/base.html",
        "worker.py",
        "cli.py",
        "py.typed",
    ]
    needed += ["store/migrations/env.py", "store/migrations/versions"]
    assert [name for name in needed if not any(f"dalang/{name}" in one for one in names)] == []


def _clean() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("DALANG_", "PYTEST_", "PYTHONPATH"))
    }
