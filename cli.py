"""The command line ``dalang``: see ``dalang/commands``."""

from __future__ import annotations

import gc
import io
import sys


def main() -> None:
    """Run the command line of this process and exit."""
    from dalang.start import FEW_COLLECTIONS, without_httpx_command

    without_httpx_command()
    gc.set_threshold(FEW_COLLECTIONS)
    from dalang.commands.app import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name in Javanese must not fail on a terminal that knows ASCII only
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
