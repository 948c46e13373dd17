"""What a node with the field ``memory`` is given: what was done before, and where it works apart from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Session:
    """Where a node works apart from others; what it changes there is merged when it succeeds, and only then.

    ``kind`` is ``git`` - ``path`` is a worktree of its own of ``repository``, on ``branch``, which began at ``base`` -
    or ``cortex``: ``id`` is the session's, ``token`` what the Cortex gave for it. ``paths`` and ``read_only_paths`` are
    the scope; for a worktree it is looked at when the changes are merged.
    """

    kind: str
    id: str
    path: str | None = None
    repository: str | None = None
    branch: str | None = None
    base: str | None = None
    workspace: str | None = None
    paths: tuple[str, ...] = ()
    read_only_paths: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)

    def wire(self) -> dict[str, Any]:
        """Return the JSON form for agents elsewhere; without the token."""
        optional = {name: getattr(self, name) for name in ("path", "repository", "branch", "base", "workspace")}
        told = {"kind": self.kind, "id": self.id, **{name: value for name, value in optional.items() if value}}
        return {**told, "paths": list(self.paths), "readOnlyPaths": list(self.read_only_paths)}


@dataclass(frozen=True, slots=True)
class Memory:
    """What a node with the field ``memory`` is given: what was done before under such a name, and a session."""

    episodes: tuple[Mapping[str, Any], ...] = ()
    session: Session | None = None

    def wire(self) -> dict[str, Any]:
        """Return the JSON form for agents elsewhere."""
        told: dict[str, Any] = {"episodes": [dict(one) for one in self.episodes]}
        return told if self.session is None else {**told, "session": self.session.wire()}
