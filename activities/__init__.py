"""Activities: one file per kind of outside world. ``execution.py`` is the wrapper that all of them run in."""
