"""What made a result: the worker's build, the code, the model that answered; told by workers, kept by events.

Nothing of it follows from the plan: the same plan is carried out by whatever is deployed. A worker in another language
may tell anything, so only known fields are taken, and short texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from dalang.canonical import safe_text

FIELDS: Mapping[str, tuple[str, ...]] = {
    "implementation": ("type", "coordinate", "digest"),
    "model": ("name", "provider", "version", "responseId"),
}
MAX_TEXT = 300


def made_of(told: Any) -> dict[str, Any]:
    """Return what can be used of what a worker told: ``build`` and the objects of :data:`FIELDS`."""
    if not isinstance(told, Mapping):
        return {}
    found: dict[str, Any] = {}
    if isinstance(told.get("build"), str):
        found["build"] = safe_text(told["build"], MAX_TEXT)
    for name, fields in FIELDS.items():
        own = told.get(name)
        if isinstance(own, Mapping):
            texts = {key: safe_text(own[key], MAX_TEXT) for key in fields if isinstance(own.get(key), str)}
            if texts:
                found[name] = texts
    return found


def made_notes(told: Any) -> dict[str, Any]:
    """Return what an event says of it."""
    found = made_of(told)
    return {"made": found} if found else {}


def provenance_ref(run_id: str, node_id: str) -> str:
    """Return where the provenance of a node is told: a path of the API."""
    return f"/orchestrator/runs/{run_id}/nodes/{quote(node_id, safe='')}/provenance"
