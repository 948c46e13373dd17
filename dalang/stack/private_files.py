"""Files and folders that hold secrets: readable by their owner only, and never half written."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def make_home(home: Path) -> Path:
    """Create the folder of a stack and return its absolute path.

    Mode 0700; as root 0711, because PostgreSQL then runs as another user and must pass through to its data.
    """
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return home


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` with mode 0600, atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
