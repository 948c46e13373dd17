"""Settings: where they come from, what is refused, what stands in the docs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dalang.health import Health
from dalang.settings import SETTINGS_DOC, Settings, SettingsError, documentation
from dalang.stack.ports import free_ports
from dalang.store.engine import create_engine
from dalang.vitals import Vitals, serving
from tests.harness import ROOT


def test_docs_name_every_setting() -> None:
    """docs/settings.md is what ``python -m dalang.settings`` prints."""
    written = (ROOT / SETTINGS_DOC).read_text(encoding="utf-8")
    assert written == documentation(), f"run: python -m dalang.settings > {SETTINGS_DOC}"


def test_environment_wins_over_the_running_stack_and_that_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three sources, each overriding the next; what a newer version wrote into the file is ignored."""
    (tmp_path / "stack.json").write_text(json.dumps({"api_port": 9001, "task_queue": "of-stack", "of_a_newer": 1}))
    monkeypatch.setenv("DALANG_HOME", str(tmp_path))
    monkeypatch.setenv("DALANG_API_PORT", "9002")
    settings = Settings.load()
    assert (settings.api_port, settings.task_queue, settings.max_in_flight) == (9002, "of-stack", 50)
    assert Settings.load(running_stack=False).task_queue == "dalang"
    assert Settings.load(task_queue="given", api_port=None).task_queue == "given"


def test_a_misspelt_setting_is_refused_with_the_right_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo would otherwise silently mean the default."""
    monkeypatch.setenv("DALANG_TASK_QEUE", "x")
    with pytest.raises(SettingsError, match=r"DALANG_TASK_QEUE is not a setting.*DALANG_TASK_QUEUE"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x"),
        ("API_PORT", "70000"),
        ("MAX_IN_FLIGHT", "0"),
        ("TEMPORAL_ADDRESS", "localhost"),
        ("API_URL", "localhost:8400"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_refused_and_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which variable it is about."""
    monkeypatch.setenv(f"DALANG_{name}", value)
    with pytest.raises(SettingsError, match=f"DALANG_{name}: "):
        Settings.load()


def test_addresses_follow_ports_unless_given() -> None:
    """A changed port is enough; an address given wins."""
    moved = Settings(temporal_port=7300, temporal_ui_port=8300, api_port=8500, api_host="0.0.0.0")
    assert moved.temporal_address == "127.0.0.1:7300"
    assert moved.temporal_ui_url == "http://127.0.0.1:8300"
    assert moved.api_url == "http://127.0.0.1:8500"
    assert Settings(temporal_port=7300, temporal_address="cloud:443").temporal_address == "cloud:443"


def test_every_postgres_url_becomes_one_of_asyncpg() -> None:
    """The spellings people use, and a socket folder."""
    for scheme in ("postgres", "postgresql", "postgresql+asyncpg"):
        url = Settings(database_url=f"{scheme}://a:b@/d?host=/run/pg").database_url
        assert url == "postgresql+asyncpg://a:b@/d?host=/run/pg"


def test_a_child_loads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``environment()`` and ``load()`` are inverse."""
    settings = Settings(
        home=tmp_path, node_modules="a.b, c", temporal_tls=True, database_url="postgresql://a:b@h/d", api_port=99
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings


def test_secrets_are_not_in_repr() -> None:
    """What is logged carries no password."""
    settings = Settings(database_url="postgresql://a:hush@h/d", token="hush", temporal_api_key="hush")
    assert "hush" not in repr(settings)


def test_the_token_is_read_from_home(tmp_path: Path) -> None:
    """The command line needs no setting where a stack has been started."""
    assert Settings(home=tmp_path).read_token() is None
    (tmp_path / "token").write_text("abc\n")
    assert Settings(home=tmp_path).read_token() == "abc"
    assert Settings(home=tmp_path, token="mine").read_token() == "mine"


def test_a_missing_database_says_what_to_do(tmp_path: Path) -> None:
    """The error names the setting and the command."""
    with pytest.raises(SettingsError, match=r"DALANG_DATABASE_URL.*dalang up"):
        Settings(home=tmp_path).require_database_url()


def test_reading_settings_loads_nothing_heavy() -> None:
    """Every start of the command line pays for this import."""
    heavy = {"temporalio", "sqlalchemy", "asyncpg", "fastapi", "psutil", "pydantic_settings", "dalang.stack"}
    code = "import sys, dalang.settings; dalang.settings.Settings.load(); print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not heavy & set(done.stdout.split())


def test_opentelemetrys_own_variables_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever traces other programs need not learn other names; ours go before them, and they can switch it off."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    assert Settings.load(running_stack=False).otel_endpoint == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    found = Settings.load(running_stack=False)
    assert (found.otel_endpoint, found.otel_sample_ratio) == ("http://collector:4318/v1/traces", 0.25)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/in")
    assert Settings.load(running_stack=False).otel_endpoint == "http://traces:4318/in"
    monkeypatch.setenv("DALANG_OTEL_ENDPOINT", "http://ours:4318/v1/traces")
    assert Settings.load(running_stack=False).otel_endpoint == "http://ours:4318/v1/traces"
    monkeypatch.delenv("DALANG_OTEL_ENDPOINT")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert Settings.load(running_stack=False).otel_endpoint == ""


def test_log_lines_are_objects_in_production() -> None:
    """Unless it is said otherwise."""
    assert Settings().log_form == "text"
    assert Settings(production=True).log_form == "json"
    assert Settings(production=True, log_format="text").log_form == "text"


async def test_workers_of_one_host_take_one_port_each() -> None:
    """Out of a range; when none is left the setting is named. A port alone is a range of one."""
    first = free_ports(1)[0]
    settings = Settings(worker_metrics_port=f"{first}-{min(first + 40, 65535)}")
    vitals = Vitals(create_engine("postgresql://nobody@127.0.0.1/none"), Health([]), None)  # type: ignore[arg-type]
    async with serving(settings, vitals) as one, serving(settings, vitals) as two:
        assert first <= one < two
        with pytest.raises(SettingsError, match="DALANG_WORKER_METRICS_PORT: no free port"):
            async with serving(Settings(worker_metrics_port=str(one)), vitals):
                pass
        async with httpx.AsyncClient(trust_env=False) as client:
            for port in (one, two):
                assert (await client.get(f"http://127.0.0.1:{port}/health/live")).json() == {"status": "up"}
