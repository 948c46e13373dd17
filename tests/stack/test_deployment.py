"""The files people deploy with: compose file, Makefile, constraints, CI."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from dalang.settings import PREFIX, Settings
from dalang.stack.polling import is_worker, polls
from tests.harness import ROOT

SCRIPTS = Path(sys.executable).parent


def compose() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_the_compose_file_is_valid() -> None:
    """By the schema of the Compose specification."""
    command = [SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_publishes_on_loopback_only_and_workers_scale() -> None:
    """Ports are bound to 127.0.0.1; a service with a fixed name or port could not be scaled."""
    services = compose()["services"]
    for name, service in services.items():
        assert "container_name" not in service
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    assert "ports" not in services["worker"]
    assert all(re.search(r":v?\d+\.\d+", s["image"]) for s in services.values() if "build" not in s)


def test_compose_and_example_environment_name_the_same_variables() -> None:
    """Every variable of the compose file is in .env.example, and no other; no secret has a default."""
    used = dict(re.findall(r"\$\{(\w+)(:[?-])", (ROOT / "docker-compose.yml").read_text()))
    offered = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used.keys() == offered.keys()
    for name in used:
        assert ("PASSWORD" in name) == (used[name] == ":?") == (offered[name] == "")


def test_compose_sets_only_settings_that_exist() -> None:
    """A setting that was renamed would stop every container."""
    for service in compose()["services"].values():
        names = [name for name in service.get("environment", {}) if name.startswith(PREFIX)]
        assert {name.removeprefix(PREFIX).lower() for name in names} <= Settings.model_fields.keys()


def test_files_that_compose_and_the_image_use_exist() -> None:
    """Mounted scripts, and what the image copies."""
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).is_file(), volume
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_constraints_are_exact_and_are_what_runs_here() -> None:
    """Versions only, no addresses; what is installed here is what they say."""
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert lines
    for line in lines:
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.!+]*)", line).groups()  # type: ignore[union-attr]
        try:
            assert metadata.version(name) == version
        except metadata.PackageNotFoundError:
            continue  # of another platform


@pytest.mark.parametrize(
    "script",
    sorted([ROOT / ".ci" / "run", ROOT / ".ci" / "audit", *ROOT.glob("deploy/*.sh")]),
    ids=lambda path: path.name,
)
def test_scripts_parse(script: Path) -> None:
    """The shell they name reads them to the end."""
    shell = script.read_text().splitlines()[0].split("/")[-1].split()[-1]
    subprocess.run([shutil.which(shell) or shell, "-n", script], check=True)


def test_a_second_make_venv_does_nothing(tmp_path: Path) -> None:
    """The stamps are newer than what they depend on."""
    for stamp in (".base", ".installed"):
        (tmp_path / stamp).touch()
    done = subprocess.run(["make", "-q", "venv", f"VENV={tmp_path}"], cwd=ROOT, check=False)
    assert done.returncode == 0


@workflow.defn(sandboxed=False)
class Idle:
    @workflow.run
    async def run(self) -> None: ...


async def test_a_worker_is_healthy_while_it_polls(temporal_client: Client, settings: Settings) -> None:
    """What the health check of the worker's container asks."""
    assert not await polls(temporal_client, settings)
    async with Worker(temporal_client, task_queue=settings.task_queue, workflows=[Idle]):
        while not await polls(temporal_client, settings, os.getpid()):
            pass
        assert await polls(temporal_client, settings)
        assert not await polls(temporal_client, settings, 1)


def test_an_identity_names_host_and_process() -> None:
    """Both ways to write it; a pid is not found inside a longer number or inside the host's name."""
    for identity in ("77@box-5", "box-5-77", "box-5:77"):
        assert is_worker(identity, "box-5")
        assert is_worker(identity, "box-5", 77)
        assert not is_worker(identity, "box-5", 7)
        assert not is_worker(identity, "box-5", 5)
        assert not is_worker(identity, "other", 77)
