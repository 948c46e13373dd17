"""Beginning as quickly as a process can: ``python -m dalang.start worker`` and ``... api`` run the composition roots.

With ``--told`` it imports what it needs first and then reads its settings, as a line of JSON: so a stack has its
processes ready to begin when its servers are.

What a process imports stays as long as it does: looking through it for garbage, again and again while it is made, is a
fifth of the CPU of a start.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys

ROOTS = {"worker": "dalang.worker", "api": "dalang.api.__main__"}
FEW_COLLECTIONS = 50_000
"""Objects more than before until the next look for garbage; Python's 700 are for processes that last."""


def without_httpx_command() -> None:
    """Let httpx do without its own command line, for which it imports rich, pygments and click where they are."""
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # Python's way to say: not to be imported


def become(name: str, *, told: bool = False) -> int:
    """Run a composition root until it ends; return its exit code. ``told``: stdin says what the environment lacks."""
    without_httpx_command()
    gc.disable()
    module = importlib.import_module(ROOTS[name])
    gc.freeze()
    gc.enable()
    if told:
        line = sys.stdin.readline()
        if not line:
            return 0  # whoever would have said it is gone
        os.environ.update(json.loads(line))
    code: int = module.main()
    return code


if __name__ == "__main__":
    sys.exit(become(sys.argv[1], told=sys.argv[2:] == ["--told"]))
