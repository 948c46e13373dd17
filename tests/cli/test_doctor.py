"""``dalang doctor`` on a real stack: well, and with one thing after the other ill."""

from __future__ import annotations

from pathlib import Path

import pytest

from dalang.doctor import rounds
from dalang.stack.ports import free_port
from tests.cli.conftest import Dalang

WANTED = (
    "versions", "disk", "audit key", "postgres", "clock", "migrations", "rights", "row security", "projection",
    "temporal", "namespace", "search", "workers", "backlog", "api",
)  # fmt: skip


@pytest.mark.usefixtures("here")
def test_a_stack_is_well(dalang: Dalang) -> None:
    """Everything is looked at, nothing has failed; programs get it as JSON."""
    found = dalang("doctor", "--json")
    assert (found.code, found.json["healthy"]) == (0, True)
    levels = {one["name"]: one["level"] for one in found.json["findings"]}
    assert tuple(levels) == WANTED
    levels.pop("disk")
    assert set(levels.values()) == {"OK"}, found.out
    shown = dalang("doctor")
    assert "OK   workers      1 on task queue" in shown.out


@pytest.mark.usefixtures("here")
def test_what_is_ill_is_said_with_what_to_do(dalang: Dalang, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rest is looked at all the same; the exit code is 1, a bad setting is a finding, too."""
    monkeypatch.setattr(rounds, "PATIENCE", 2.0)
    monkeypatch.setenv("DALANG_TEMPORAL_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("DALANG_TASK_QUEUE", "nobody-is-here")
    monkeypatch.setenv("DALANG_MODELS_FILE", str(tmp_path / "gone.yaml"))
    found = dalang("doctor", "--json")
    assert (found.code, found.json["healthy"]) == (1, False)
    failed = {one["name"]: one for one in found.json["findings"] if one["level"] == "FAIL"}
    assert set(failed) == {"files", "temporal"}
    assert "DALANG_TEMPORAL_ADDRESS" in failed["temporal"]["do"]
    assert failed["files"]["what"].endswith("gone.yaml cannot be read")
    monkeypatch.delenv("DALANG_TEMPORAL_ADDRESS")
    monkeypatch.delenv("DALANG_MODELS_FILE")
    found = dalang("doctor")
    assert found.code == 1
    assert "FAIL workers      nobody polls task queue nobody-is-here" in found.out
    monkeypatch.setenv("DALANG_DATABASE_URL", f"postgresql://a:b@127.0.0.1:{free_port()}/c")
    assert "FAIL postgres" in dalang("doctor").out
    monkeypatch.setenv("DALANG_LOG_LEVEL", "LOUD")
    assert "FAIL settings" in dalang("doctor").out
