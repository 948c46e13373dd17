"""Dalang: a durable orchestrator for plans of AI agents, tools, services and people.

A plan is a directed acyclic graph; one generic Temporal workflow interprets it. This package
is the pure core (plan, graph, expressions, run) and the public SDK (nodes, builder). The folders
``workflows``, ``activities``, ``api`` and the composition roots ``worker.py`` and ``cli.py`` stand at the top of
the repository and belong to this package by links (``dalang/workflows -> ../workflows``), so that nothing
outside the name ``dalang`` is ever installed: a project with an ``activities/`` or ``api/`` folder of its own keeps it.
"""

__version__ = "0.1.0"
