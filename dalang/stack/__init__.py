"""The whole stack on one machine, from wheels: real PostgreSQL, real Temporal, a worker and the API.

``up`` is what ``dalang up`` runs; :func:`dalang.stack.supervisor.stack` is the same as a context manager, for tests,
demos and benchmarks. Nothing listens anywhere but on 127.0.0.1.
"""
