"""Workers that are killed while a node works in its worktree."""

from __future__ import annotations

from pathlib import Path

import pytest

from dalang.settings import Settings
from tests.engine.agents import outputs
from tests.engine.repositories import branches, content, git, repository
from tests.faults.site import RETRY, site, until


@pytest.mark.soak
async def test_nothing_is_left_of_a_worker_that_was_killed_in_its_worktree(settings: Settings, folder: Path) -> None:
    """The next attempt begins with a fresh one, and what it does is merged once; a worktree of nobody goes, too."""
    where = repository(settings.home / "repositories", "site")
    settings = settings.model_copy(update={"repositories_dir": str(settings.home / "repositories")})
    stray = settings.home / "sessions" / "5d3f3c76-0f6e-4a43-8a5b-2a8f2d7b1c11"
    stray.mkdir(parents=True)
    node = {
        "nodeId": "n",
        "type": "m-write",
        "inputs": {"files": {"b.txt": "b"}, "then": "kill"},
        "memory": {"episodes": 0, "session": {"repository": "site"}},
        "retryPolicy": {**RETRY, "maxAttempts": 2},
        "timeouts": {"heartbeat": "2s"},
    }
    async with site(settings, folder, supervised=True) as made:
        started = await made.start({"nodes": [node]})
        end = await started.end()
        assert end["run"]["status"] == "COMPLETED", end["run"]["error"]
        assert end["nodes"]["n"]["attempt"] == 2
        assert "b.txt" not in outputs(end, "n")["seen"]
        assert content(where, "b.txt") == "b"
        assert git(where, "rev-list", "--count", "main") == "3"
        assert branches(where) == ["main"]
        await until(lambda: not list((settings.home / "sessions").iterdir()))
