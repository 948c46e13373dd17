"""What tests of worktrees share: real git repositories, and what is in them."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

TENANT = "tests"


def git(where: Path, *arguments: str) -> str:
    """Run git as a person would."""
    command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@localhost", *arguments]
    done = subprocess.run(command, cwd=where, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@cache
def _templates() -> Path:
    """Make one repository of each kind, which are copied: git takes its time for each command."""
    folder = Path(tempfile.mkdtemp(prefix="dalang-repositories-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    where = folder / "whole"
    (where / "src").mkdir(parents=True)
    git(where, "init", "--quiet", "-b", "main")
    (where / "src" / "a.txt").write_text("one\ntwo\nthree\n")
    (where / "README.md").write_text("read me\n")
    git(where, "add", "--all")
    git(where, "commit", "--quiet", "-m", "begin")
    git(folder, "clone", "--quiet", "--bare", str(where), str(folder / "bare"))
    return folder


def repository(folder: Path, name: str, *, bare: bool = True, tenant: str = TENANT) -> Path:
    """Make a repository of a tenant with two files on main, and return where it is."""
    where = folder / tenant / name
    shutil.copytree(_templates() / ("bare" if bare else "whole"), where)
    return where


def content(where: Path, path: str, branch: str = "main") -> str:
    """Return a file as it is on a branch."""
    return git(where, "show", f"{branch}:{path}")


def branches(where: Path) -> list[str]:
    return git(where, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()


def change(where: Path, path: str, text: str, branch: str = "main") -> None:
    """Let somebody else change a file on a branch, from a clone of his own."""
    clone = where.parent / f"{where.name}-clone"
    if not clone.exists():
        git(where.parent, "clone", "--quiet", str(where), str(clone))
    git(clone, "checkout", "--quiet", branch)
    git(clone, "pull", "--quiet", "--ff-only")
    (clone / path).parent.mkdir(parents=True, exist_ok=True)
    (clone / path).write_text(text)
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "-m", f"change {path}")
    git(clone, "push", "--quiet", "origin", branch)
