"""What events do not tell of nodes under way: which attempt it is, what failed before, what the handler says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from dalang.commands.client import ApiClient
from dalang.commands.failures import CommandFailure
from dalang.commands.limits import queued_note
from dalang.commands.output import instant
from dalang.commands.progress import RunProgress

EVERY_SECONDS = 1.5
_LOOKED_AT = ["RUNNING", "RETRYING", "QUEUED"]
MOST_NODES = 100
"""Of a run with more nodes under way nobody could read it."""


@contextlib.contextmanager
def looked_at(client: ApiClient, run_id: str, run: RunProgress) -> Iterator[None]:
    """For the time of the block, note beside each node under way what the API knows of its live attempt."""
    stopping = threading.Event()
    thread = threading.Thread(target=_look, args=(client, run_id, run, stopping), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()


def _look(client: ApiClient, run_id: str, run: RunProgress, stopping: threading.Event) -> None:
    while not stopping.wait(EVERY_SECONDS):
        late = time.time() - EVERY_SECONDS
        slow = [
            node
            for node in list(run.nodes)
            if node.status == "QUEUED" or (node.status == "RUNNING" and (node.started or late) < late)
        ]
        if not slow or len(slow) > MOST_NODES:
            continue
        try:
            found = client.get(f"/runs/{run_id}/nodes", status=_LOOKED_AT, limit=MOST_NODES)["items"]
        except (CommandFailure, httpx.HTTPError):
            continue  # it is a nicety; whoever follows the events tells that the API is away
        for item in found:
            node = run.by_id.get(item["nodeId"])
            if node is not None and node.status in ("RUNNING", "QUEUED"):
                node.note = told(item)


def told(item: Mapping[str, Any]) -> str:
    """Return what a node's live attempt is worth telling."""
    if item.get("queue"):
        return queued_note(item)
    live = item.get("live") or {}
    parts = []
    if live.get("attempt", 1) > 1:
        most = item.get("maxAttempts")
        parts.append(f"attempt {live['attempt']}" + (f" of {most}" if most else ""))
        at = instant(live.get("nextAttemptAt"))
        if at is not None and at.timestamp() > time.time():
            parts.append(f"at {at.astimezone():%H:%M:%S}")
    progress = live.get("progress")
    if isinstance(progress, Mapping):
        fraction = progress.get("fraction")
        percent = f" {fraction:.0%}" if isinstance(fraction, (int, float)) else ""
        parts.append(f"{progress.get('message', '')}{percent}".strip())
    failure = live.get("lastFailure") or {}
    if failure and len(parts) < 3:
        parts.append(f"{failure.get('type', '')}: {failure.get('message', '')}")
    return ", ".join(part for part in parts if part)
