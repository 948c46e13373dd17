"""What the doctor looks at on this machine: versions, disk, files with keys and rules, the API."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from dalang import __version__
from dalang.doctor.findings import FAIL, OK, WARN, Finding
from dalang.encryption_keys import watched_keys
from dalang.errors import DalangError
from dalang.settings import Settings
from dalang.signing import Keyring

PINNED = ("temporalio", "cel-expr-python")
FULL = (0.10, 0.02)
ANSWER_SECONDS = 5.0
READ = ("policy_file", "models_file", "mcp_servers_file", "temporal_tls_cert_file", "temporal_tls_key_file")


def versions() -> Finding:
    """Say what runs here."""
    known = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PINNED)
    return Finding("versions", OK, f"Dalang {__version__}, Python {platform.python_version()}, {known}")


def disk(settings: Settings) -> Finding:
    """Say how much room is left where this process writes."""
    place = settings.home if settings.home.exists() else Path.cwd()
    usage = shutil.disk_usage(place)
    free = usage.free / usage.total
    level = FAIL if free < FULL[1] else WARN if free < FULL[0] else OK
    do = "" if level is OK else "Make room: a full disk stops PostgreSQL, and with it what runs tell."
    return Finding("disk", level, f"{usage.free / 2**30:.1f} GiB free ({free:.0%}) at {place}", do)


def files(settings: Settings) -> Iterator[Finding]:
    """Say whether the files that settings name can be read."""
    yield _audit_keys(settings)
    if settings.encryption_keys_file:
        yield _encryption_keys(settings)
    for name in READ:
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            do = f"Make it readable for this user, or change DALANG_{name.upper()}."
            yield Finding("files", FAIL, f"{path} cannot be read", do)
    if settings.secrets_dir and not Path(settings.secrets_dir).is_dir():
        yield Finding("files", FAIL, f"{settings.secrets_dir} is no folder", "Mount it, or change DALANG_SECRETS_DIR.")


def _audit_keys(settings: Settings) -> Finding:
    try:
        keys = Keyring.load(settings.audit_keys_path)
    except DalangError as error:
        return Finding("audit key", FAIL, str(error), "See docs/audit.md, Keys.")
    if keys.own_id is not None:
        return Finding("audit key", OK, f"signs with {keys.own_id}")
    level = WARN if settings.production else OK
    do = "Workers need a private key: docs/audit.md, Keys." if settings.production else ""
    return Finding("audit key", level, "what runs do is not signed here", do)


def _encryption_keys(settings: Settings) -> Finding:
    try:
        watched = watched_keys(settings)
        assert watched is not None
        watched.current()
    except DalangError as error:
        return Finding("encryption", FAIL, str(error), "See docs/encryption.md.")
    return Finding("encryption", OK, "what Temporal holds is encrypted")


async def api(settings: Settings) -> Sequence[Finding]:
    """Say whether the API answers."""
    import httpx

    do = "Start `dalang api`; the command line finds it by DALANG_API_URL."
    try:
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{settings.api_url}/health/live")
    except httpx.HTTPError as error:
        return [Finding("api", WARN, f"{settings.api_url} does not answer: {type(error).__name__}", do)]
    if answer.status_code != 200:
        return [Finding("api", WARN, f"{settings.api_url} answers {answer.status_code}", do)]
    return [Finding("api", OK, f"answers at {settings.api_url}")]
