"""Worktrees of real git repositories: added, merged, refused, removed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dalang.activities.worktrees import Conflict, Worktree, Worktrees
from dalang.nodes import InvalidInput, ToolError
from tests.engine.repositories import TENANT, branches, change, content, git, repository

MESSAGE = "write\n\nDalang-Node: n\n"


@pytest.fixture
def trees(tmp_path: Path) -> Worktrees:
    return Worktrees(tmp_path / "repositories", tmp_path / "home" / "sessions")


@pytest.fixture(params=[True, False], ids=["bare", "checked-out"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return repository(tmp_path / "repositories", "site", bare=request.param)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return repository(tmp_path / "repositories", "site")


async def added(trees: Worktrees, base: str | None = None) -> Worktree:
    tree = await trees.plan(TENANT, "site", base, str(uuid4()))
    await trees.add(tree)
    return tree


async def merged(trees: Worktrees, tree: Worktree, paths: Sequence[str] = (), read_only: Sequence[str] = ()) -> Any:
    """Merge what was committed in a worktree."""
    tip = git(Path(tree.path), "rev-parse", tree.branch)
    return await trees.merge(tree, tip, paths, read_only, MESSAGE)


async def written(trees: Worktrees, files: dict[str, str], base: str | None = None) -> Worktree:
    """Add a worktree, write files in it and commit."""
    tree = await added(trees, base)
    for name, text in files.items():
        path = Path(tree.path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    await trees.commit(tree, MESSAGE)
    return tree


async def test_what_was_done_is_merged_and_nothing_is_left(trees: Worktrees, site: Path) -> None:
    """Changed, new and deleted files; a checkout of the base goes along; merged again nothing happens."""
    tree = await added(trees)
    (Path(tree.path) / "src" / "a.txt").write_text("one\n2\nthree\n")
    (Path(tree.path) / "new file.txt").write_text("new\n")
    (Path(tree.path) / "README.md").unlink()
    await trees.commit(tree, MESSAGE)
    report = await merged(trees, tree)
    assert report["files"] == ["README.md", "new file.txt", "src/a.txt"]
    assert report["commit"] == git(site, "rev-parse", "main")
    assert content(site, "src/a.txt") == "one\n2\nthree"
    assert git(site, "log", "-1", "--format=%(trailers:key=Dalang-Node,valueonly)", "main") == "n"
    again = await merged(trees, tree)
    assert (again["commit"], again["files"]) == (report["commit"], [])
    await trees.remove(tree)
    await trees.remove(tree)
    assert branches(site) == ["main"]
    assert trees.leftovers() == []
    assert len(git(site, "worktree", "list").splitlines()) == 1
    if (site / "src").exists():
        assert (site / "src" / "a.txt").read_text() == "one\n2\nthree\n"
        assert git(site, "status", "--porcelain") == ""


async def test_nothing_done_is_nothing_merged(trees: Worktrees, bare: Path) -> None:
    before = git(bare, "rev-parse", "main")
    tree = await written(trees, {})
    assert (await merged(trees, tree))["files"] == []
    assert git(bare, "rev-parse", "main") == before


async def test_what_others_did_meanwhile_stays(trees: Worktrees, bare: Path) -> None:
    """In another file, and elsewhere in the same; only what this one did counts for its scope."""
    tree = await written(trees, {"src/a.txt": "zero\none\ntwo\nthree\n"})
    change(bare, "src/a.txt", "one\ntwo\nthree\nfour\n")
    change(bare, "docs/new.md", "new\n")
    report = await merged(trees, tree, ["src"], ["docs"])
    assert report["files"] == ["src/a.txt"]
    assert content(bare, "src/a.txt") == "zero\none\ntwo\nthree\nfour"
    assert content(bare, "docs/new.md") == "new"


async def test_many_merge_at_once(trees: Worktrees, bare: Path) -> None:
    """Each on top of whoever was first."""
    made = [await written(trees, {f"src/{number}.txt": f"{number}\n"}) for number in range(3)]
    await asyncio.gather(*(merged(trees, tree) for tree in made))
    assert [content(bare, f"src/{number}.txt") for number in range(3)] == list("012")


async def test_a_conflict_names_files_and_both_sides(trees: Worktrees, bare: Path) -> None:
    """And leaves the base as it was."""
    tree = await written(trees, {"src/a.txt": "one\nmine\nthree\n", "fine.txt": "fine\n"})
    change(bare, "src/a.txt", "one\ntheirs\nthree\n")
    ours = git(bare, "rev-parse", "main")
    with pytest.raises(Conflict, match=r"1 files conflict .* main: src/a\.txt") as caught:
        await merged(trees, tree)
    assert caught.value.report == {
        "repository": "site",
        "files": ["src/a.txt"],
        "ours": {"ref": "refs/heads/main", "commit": ours},
        "theirs": {"ref": f"refs/heads/{tree.branch}", "commit": git(bare, "rev-parse", tree.branch)},
    }
    assert git(bare, "rev-parse", "main") == ours
    await trees.remove(tree, keep_branch=True)
    assert branches(bare) == [tree.branch, "main"]


async def test_changes_outside_of_the_scope_are_refused(trees: Worktrees, bare: Path) -> None:
    """All of them are named, a moved file's old place too, and nothing is merged."""
    before = git(bare, "rev-parse", "main")
    tree = await written(trees, {"src/tests/b.txt": "b\n", "src/c.txt": "c\n", "else/d.txt": "d\n"})
    (Path(tree.path) / "README.md").rename(Path(tree.path) / "src" / "README.md")
    await trees.commit(tree, MESSAGE)
    with pytest.raises(ToolError) as caught:
        await merged(trees, tree, ["src/**"], ["**/tests/**"])
    assert caught.value.details["outside"] == ["README.md", "else/d.txt", "src/tests/b.txt"]
    assert git(bare, "rev-parse", "main") == before


async def test_a_checkout_that_would_lose_something_does_not_go_along(trees: Worktrees, tmp_path: Path) -> None:
    site = repository(tmp_path / "repositories", "site", bare=False)
    tree = await written(trees, {"src/a.txt": "changed\n"})
    (site / "src" / "a.txt").write_text("somebody is at it\n")
    before = git(site, "rev-parse", "main")
    with pytest.raises(ToolError, match="checked out"):
        await merged(trees, tree)
    assert git(site, "rev-parse", "main") == before
    assert (site / "src" / "a.txt").read_text() == "somebody is at it\n"


async def test_another_base_than_the_repositorys(trees: Worktrees, bare: Path) -> None:
    git(bare, "branch", "release/1.2", "main")
    tree = await written(trees, {"x.txt": "x\n"}, "release/1.2")
    await merged(trees, tree)
    assert content(bare, "x.txt", "release/1.2") == "x"
    assert "x.txt" not in git(bare, "ls-tree", "--name-only", "main").split()


async def test_what_a_node_does_to_git_itself_does_no_harm(trees: Worktrees, bare: Path, tmp_path: Path) -> None:
    """Commits, branches and hooks of its own, and a `.git` that leads elsewhere."""
    other = repository(tmp_path / "elsewhere", "victim")
    tree = await written(trees, {"a.txt": "a\n"})
    where = Path(tree.path)
    git(where, "checkout", "--quiet", "-b", "mine")
    (where / "b.txt").write_text("b\n")
    git(where, "add", "--all")
    git(where, "commit", "--quiet", "-m", "by itself")
    hook = bare / "hooks" / "reference-transaction"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (where / "c.txt").write_text("c\n")
    (where / ".git").write_text(f"gitdir: {other}\n")
    tip = await trees.commit(tree, MESSAGE)
    report = await trees.merge(tree, tip, [], [], MESSAGE)
    assert report["files"] == ["a.txt", "b.txt", "c.txt"]
    assert branches(other) == ["main"]
    await trees.remove(tree)
    assert not where.exists()
    assert tree.branch not in branches(bare)


async def test_what_a_killed_worker_left_is_removed_and_made_anew(trees: Worktrees, bare: Path) -> None:
    """Read-only files, a lock and a half-made registration included."""
    tree = await written(trees, {"a.txt": "a\n"})
    folder = Path(tree.path) / "locked"
    folder.mkdir()
    (folder / "x").write_text("x")
    folder.chmod(0o500)
    (bare / "worktrees" / Path(tree.path).name / "index.lock").write_text("")
    (Path(tree.path) / ".git").unlink()
    await trees.add(tree)
    assert not (Path(tree.path) / "a.txt").exists()
    await trees.remove(tree)
    assert branches(bare) == ["main"]


async def test_a_worktree_that_its_node_removed_is_a_failure(trees: Worktrees, bare: Path) -> None:
    """And no defect of the worker; what is left of it is removed."""
    tree = await added(trees)
    shutil.rmtree(tree.path)
    with pytest.raises(ToolError, match="is gone"):
        await trees.commit(tree, MESSAGE)
    await trees.remove(tree)
    assert branches(bare) == ["main"]


async def test_only_repositories_that_the_operator_allows(trees: Worktrees, tmp_path: Path) -> None:
    """A folder that is none is not taken for a part of the repository around it."""
    site = repository(tmp_path / "repositories", "site", bare=False)
    git(tmp_path, "init", "--quiet")
    (site.parent / "plain").mkdir()
    for name in ("nobody", "..", "plain", "../tests/site"):
        with pytest.raises(InvalidInput):
            await trees.plan(TENANT, name, None, str(uuid4()))
    with pytest.raises(InvalidInput):
        await trees.plan("globex", "site", None, str(uuid4()))
    with pytest.raises(InvalidInput, match="no branch gone"):
        await trees.plan(TENANT, "site", "gone", str(uuid4()))
    with pytest.raises(InvalidInput, match="repositories_dir"):
        await Worktrees(None, tmp_path).plan(TENANT, "site", None, str(uuid4()))
