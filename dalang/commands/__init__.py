"""The commands of ``dalang``, one module per group; ``cli.py`` composes them.

Every command takes a :class:`~dalang.commands.session.Session`: where to write, whether as JSON, the settings and the
API's client. Modules here import nothing heavy at their top, so that ``dalang --help`` is quick.
Exit codes: 0 done (a run: COMPLETED), 1 failed, 2 wrong usage or an invalid plan, 3 the run was CANCELLED, 4 something
cannot be reached, 130 interrupted.
"""
