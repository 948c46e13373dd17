"""The command line ``dalang``: see ``dalang/commands``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit."""
    from dalang.commands.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
