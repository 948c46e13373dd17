"""Deterministic demo agents: what a plan of agents looks like at work, without a network and without a model.

Import this module in a worker (``DALANG_NODE_MODULES=dalang.demo``) and it offers the capabilities of the Axon seed:
api-design, code-generation, testing, code-review, documentation, code-analysis, refactoring, planning - and
``generalist``, which takes any task. They do small but real work, the same for the same inputs.
"""

from dalang.demo import agents, nodes, planner

__all__ = ["agents", "nodes", "planner"]
