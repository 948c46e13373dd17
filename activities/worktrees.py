"""Git worktrees in which nodes work apart: added, committed, merged, removed, all with the git executable.

A repository is one that the operator put into the folder ``repositories`` for the tenant; a worktree is a folder of its
own outside of it, on a branch of its own that begins at the base branch. What a node did is merged without touching any
checkout: ``git merge-tree`` makes the tree, ``update-ref`` moves the base branch if nobody else has moved it meanwhile.
Only where the base branch is checked out does that checkout go along, and it refuses where it would lose something.

Whoever works in a worktree may write what it likes there, its file ``.git`` included. So git is always told which
repository is meant, and runs no hooks.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from dalang.nodes import InvalidInput, NodeFailure, ToolError
from dalang.scopes import outside

GIT_SECONDS = 120.0
MERGE_ATTEMPTS = 20
"""So often others may move the base branch first."""
MAX_LISTED = 200
MAX_STDERR = 1_000
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CONFIG = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.quotePath": "false",
    "commit.gpgSign": "false",
    "gc.auto": "0",
    "user.name": "Dalang",
    "user.email": "dalang@localhost",
}


class GitError(Exception):
    """Git said no; ``code`` is its exit code."""

    def __init__(self, what: str, code: int, said: str) -> None:
        super().__init__(f"git {what} ended with {code}: {said.strip()[-MAX_STDERR:]}")
        self.code = code


class Conflict(Exception):
    """Both sides have changed the same: ``report`` names the files and what both sides are."""

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = dict(report)


@dataclass(frozen=True)
class Worktree:
    """Where a worktree is and what it belongs to; this is what is kept of it, so that any worker can clean up."""

    tenant: str
    repository: str
    path: str
    branch: str
    base: str
    commit: str

    @classmethod
    def of(cls, place: Mapping[str, Any]) -> Self:
        """Return the worktree that a row of the table tells of."""
        return cls(**{name: str(place[name]) for name in cls.__dataclass_fields__})

    def wire(self) -> dict[str, Any]:
        """Return what is kept."""
        return asdict(self)


class Worktrees:
    """Worktrees below ``folder`` of the repositories ``<repositories>/<tenant>/<name>``; None: there are none."""

    def __init__(self, repositories: Path | None, folder: Path) -> None:
        self._repositories = repositories
        self.folder = folder
        self._locks: dict[str, asyncio.Lock] = {}

    async def plan(self, tenant: str, repository: str, base: str | None, session_id: str) -> Worktree:
        """Return what the worktree will be: nothing is made yet.

        Raises:
            InvalidInput: the operator allows no such repository, or it has no such branch.
        """
        where = self._where(tenant, repository)
        if base is None:
            try:
                base = (await self._git(where, "symbolic-ref", "--quiet", "--short", "HEAD")).strip()
            except GitError:
                raise InvalidInput(
                    f"repository {repository} is on no branch; say which: base", no_effect=True
                ) from None
        commit = await self._commit_of(where, f"refs/heads/{base}")
        if commit is None:
            raise InvalidInput(f"repository {repository} has no branch {base}", no_effect=True)
        path = str(self.folder.absolute() / session_id)
        return Worktree(tenant, repository, path, f"dalang/{session_id}", base, commit)

    async def add(self, tree: Worktree) -> None:
        """Make it; what a dead worker has left of it goes first."""
        where = self._where(tree.tenant, tree.repository)
        await asyncio.to_thread(self.folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        async with self._lock(where):
            if await asyncio.to_thread(Path(tree.path).exists):
                await self._remove(where, tree, keep_branch=False)
            await self._git(
                where, "worktree", "add", "--quiet", "--no-track", "-B", tree.branch, tree.path, tree.commit
            )

    async def commit(self, tree: Worktree, message: str) -> str:
        """Commit whatever has changed in the worktree; return the commit its branch is at then."""
        where = self._where(tree.tenant, tree.repository)
        common = (await self._git(where, "rev-parse", "--path-format=absolute", "--git-common-dir")).strip()
        own = str(Path(common) / "worktrees" / Path(tree.path).name)
        inside = (f"--git-dir={own}", f"--work-tree={tree.path}")
        await self._git(Path(tree.path), *inside, "add", "--all")
        try:
            await self._git(Path(tree.path), *inside, "diff", "--cached", "--quiet")
        except GitError as error:
            if error.code != 1:
                raise
            await self._git(Path(tree.path), *inside, "commit", "--quiet", "--no-verify", "-m", message)
        tip = (await self._git(Path(tree.path), *inside, "rev-parse", "HEAD")).strip()
        await self._git(where, "update-ref", f"refs/heads/{tree.branch}", tip)
        return tip

    async def merge(
        self, tree: Worktree, tip: str, paths: Sequence[str], read_only: Sequence[str], message: str
    ) -> dict[str, Any]:
        """Merge the commit ``tip`` into the base and return what was merged; done before, it is not done again.

        Raises:
            ToolError: something outside of the scope was changed, or a checkout of the base cannot go along.
            Conflict: both sides have changed the same.
        """
        where = self._where(tree.tenant, tree.repository)
        if await self._commit_of(where, tip) is None:
            raise ToolError(f"what was done on {tree.branch} is not in repository {tree.repository} any more")
        for _ in range(MERGE_ATTEMPTS):
            base = await self._commit_of(where, f"refs/heads/{tree.base}")
            if base is None:
                raise ToolError(f"repository {tree.repository} has no branch {tree.base} any more")
            told = {"repository": tree.repository, "base": tree.base, "branch": tree.branch}
            if await self._succeeds(where, "merge-base", "--is-ancestor", tip, base):
                return {**told, "commit": base, "files": [], "merged": True}
            files = await self._changed(where, base, tip)
            refused = outside(files, paths, read_only)
            if refused:
                raise ToolError(
                    f"{len(refused)} of {len(files)} changed paths are outside of the session's scope",
                    details={
                        **told,
                        "outside": refused[:MAX_LISTED],
                        "paths": list(paths),
                        "readOnlyPaths": list(read_only),
                    },
                )
            tree_id = await self._merged_tree(where, tree, base, tip)
            made = await self._git(where, "commit-tree", tree_id, "-p", base, "-p", tip, "-m", message)
            if await self._move(where, tree, base, made.strip()):
                return {**told, "commit": made.strip(), "files": files[:MAX_LISTED], "merged": True}
        raise NodeFailure(f"others kept moving {tree.base} of repository {tree.repository}", type="RESOURCE_EXHAUSTED")

    async def remove(self, tree: Worktree, *, keep_branch: bool = False) -> None:
        """Remove the worktree and its branch, whatever is left of them."""
        try:
            where: Path | None = self._where(tree.tenant, tree.repository)
        except NodeFailure:
            where = None
        if where is None:
            await asyncio.to_thread(_erase, Path(tree.path))
            return
        async with self._lock(where):
            await self._remove(where, tree, keep_branch)

    async def _remove(self, where: Path, tree: Worktree, keep_branch: bool) -> None:
        if not await self._succeeds(where, "worktree", "remove", "--force", "--force", tree.path):
            await asyncio.to_thread(_erase, Path(tree.path))
        await self._git(where, "worktree", "prune")
        if not keep_branch:
            await self._git(where, "update-ref", "-d", f"refs/heads/{tree.branch}")

    def holds(self, tree: Worktree) -> bool:
        """Tell whether the worktree would be in this process's folder."""
        return Path(tree.path).parent == self.folder.absolute()

    def leftovers(self) -> list[Path]:
        """Return all folders of worktrees that are there."""
        with suppress(FileNotFoundError):
            return sorted(path for path in self.folder.iterdir() if path.is_dir())
        return []

    async def erase(self, path: Path) -> None:
        """Remove the folder of a worktree that nobody knows."""
        await asyncio.to_thread(_erase, path)

    # -- merging -------------------------------------------------------------------------------------------------------

    async def _changed(self, where: Path, base: str, tip: str) -> list[str]:
        """Return the paths that the branch has changed, however far the base has gone meanwhile."""
        try:
            root = (await self._git(where, "merge-base", base, tip)).strip()
        except GitError as error:
            raise ToolError(f"the branch has nothing in common with its base any more: {error}") from None
        listed = await self._git(where, "diff", "--name-only", "--no-renames", "-z", root, tip)
        return [path for path in listed.split("\0") if path]

    async def _merged_tree(self, where: Path, tree: Worktree, base: str, tip: str) -> str:
        code, out, err = await self._run(
            where, "merge-tree", "--write-tree", "--name-only", "--messages", "-z", base, tip
        )
        if code not in (0, 1):
            raise GitError("merge-tree", code, err)
        records = out.split("\0")
        if code == 0:
            return records[0].strip()
        files = records[1 : records.index("", 1)] if "" in records[1:] else records[1:]
        report = {
            "repository": tree.repository,
            "files": files[:MAX_LISTED],
            "ours": {"ref": f"refs/heads/{tree.base}", "commit": base},
            "theirs": {"ref": f"refs/heads/{tree.branch}", "commit": tip},
        }
        names = ", ".join(files[:5]) + (" ..." if len(files) > 5 else "")
        raise Conflict(f"{len(files)} files conflict with what others changed on {tree.base}: {names}", report)

    async def _move(self, where: Path, tree: Worktree, base: str, commit: str) -> bool:
        """Let the base branch, which is at ``base``, be at ``commit``; False when somebody else moved it first."""
        checkout = await self._checkout_of(where, tree.base)
        if checkout is None:
            return await self._succeeds(
                where, "update-ref", "-m", "dalang: merge", f"refs/heads/{tree.base}", commit, base
            )
        async with self._lock(where):
            if await self._commit_of(where, f"refs/heads/{tree.base}") != base:
                return False
            try:
                await self._git(checkout, "merge", "--quiet", "--ff-only", commit)
            except GitError as error:
                if await self._commit_of(where, f"refs/heads/{tree.base}") != base:
                    return False
                raise ToolError(
                    f"{tree.base} is checked out in a folder that cannot go along: {error}",
                    details={"repository": tree.repository, "base": tree.base},
                ) from None
            return True

    async def _checkout_of(self, where: Path, branch: str) -> Path | None:
        listed = await self._git(where, "worktree", "list", "--porcelain", "-z")
        for block in listed.split("\0\0"):
            fields = dict((line.partition(" ")[0], line.partition(" ")[2]) for line in block.split("\0") if line)
            if fields.get("branch") == f"refs/heads/{branch}" and "bare" not in fields:
                return Path(fields["worktree"])
        return None

    # -- git -----------------------------------------------------------------------------------------------------------

    def _where(self, tenant: str, repository: str) -> Path:
        if self._repositories is None:
            raise InvalidInput("this worker has no repositories (setting repositories_dir)", no_effect=True)
        fits = _TENANT.fullmatch(tenant) and _REPOSITORY.fullmatch(repository)
        path = self._repositories.absolute() / tenant / repository
        if not fits or not path.is_dir():
            raise InvalidInput(f"the operator allows tenant {tenant} no repository {repository}", no_effect=True)
        return path

    def _lock(self, where: Path) -> asyncio.Lock:
        return self._locks.setdefault(str(where), asyncio.Lock())

    async def _commit_of(self, where: Path, ref: str) -> str | None:
        code, out, _ = await self._run(where, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        return out.strip() if code == 0 else None

    async def _succeeds(self, where: Path, *arguments: str) -> bool:
        return (await self._run(where, *arguments))[0] == 0

    async def _git(self, where: Path, *arguments: str) -> str:
        code, out, err = await self._run(where, *arguments)
        if code != 0:
            raise GitError(next(one for one in arguments if not one.startswith("-")), code, err)
        return out

    async def _run(self, where: Path, *arguments: str) -> tuple[int, str, str]:
        options = [part for name, value in _CONFIG.items() for part in ("-c", f"{name}={value}")]
        # What the environment says of a repository is about another one; a parent folder's is not meant either.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {
            "GIT_CEILING_DIRECTORIES": str(where.parent),
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C.UTF-8",
        }
        if _executable() is None:
            raise InvalidInput("this worker has no git", no_effect=True)
        if not await asyncio.to_thread(where.is_dir):
            raise ToolError(f"the folder {where.name} is gone")
        process = await asyncio.create_subprocess_exec(
            "git",
            *options,
            "-c",
            f"safe.directory={where}",
            *arguments,
            cwd=where,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(GIT_SECONDS):
                out, err = await process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


@cache
def _executable() -> str | None:
    return shutil.which("git")


def _erase(path: Path) -> None:
    """Remove a folder with all that is in it, also what is read-only; a link is removed, not what it leads to."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return

    def allow(function: Any, name: str, _: Any) -> None:
        Path(name).parent.chmod(stat.S_IRWXU)
        with suppress(FileNotFoundError):
            function(name)

    if path.exists():
        shutil.rmtree(path, onerror=allow)
