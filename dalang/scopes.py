"""Which paths of a tree a node may change: patterns of a session's scope.

A pattern is a path from the root of the tree; ``*`` and ``?`` stand for anything within one part of it, ``**`` for any
number of parts. One without any of these is a file, or a folder with all that is in it: ``src`` is as ``src/**``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

MAX_PATTERN = 300
MAX_PATTERNS = 100


def pattern_problem(pattern: str) -> str | None:
    """Return what is wrong with a pattern, or None."""
    parts = _stripped(pattern).split("/")
    if not _stripped(pattern) or len(pattern) > MAX_PATTERN or "\0" in pattern:
        return f"a pattern is a path of 1 to {MAX_PATTERN} characters, such as src/**"
    if any(part in ("", ".", "..") for part in parts):
        return "a pattern leads from the root of the tree downwards: it has no empty part, no . and no .."
    if any("**" in part and part != "**" for part in parts):
        return "`**` stands for whole parts of a path: src/**/test.py, not src/**.py"
    return None


def outside(changed: Iterable[str], paths: Sequence[str], read_only: Sequence[str]) -> list[str]:
    """Return those of the ``changed`` paths that are not in the scope, in order; no ``paths`` are all paths.

    What is read-only stays so, whatever else allows it.
    """
    allowed, forbidden = tuple(map(_compiled, paths)), tuple(map(_compiled, read_only))
    return [
        path
        for path in changed
        if any(one.fullmatch(path) for one in forbidden)
        or (allowed and not any(one.fullmatch(path) for one in allowed))
    ]


def _stripped(pattern: str) -> str:
    return pattern.removeprefix("/").removesuffix("/")


@lru_cache(maxsize=1000)
def _compiled(pattern: str) -> re.Pattern[str]:
    pattern = _stripped(pattern)
    is_plain = not any(sign in pattern for sign in "*?")
    made = ""
    for part in pattern.split("/"):
        if part == "**":
            made += "(?:[^/]+/)*"
        else:
            made += "".join({"*": "[^/]*", "?": "[^/]"}.get(sign, re.escape(sign)) for sign in part) + "/"
    if pattern.split("/")[-1] == "**":
        made += "[^/]+"  # what is in the folder, not the folder's name itself
    else:
        made = made.removesuffix("/") + ("(?:/.*)?" if is_plain else "")
    return re.compile(made, re.DOTALL)
