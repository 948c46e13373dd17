"""A run that begins with what another run came to: a redrive, or the undo of a run whose workflow was terminated.

The *seed* is made by ``revival.py`` before the run begins, with the state machine's own rules for edges. Here it is
only taken over: one fact per node that was kept, and then whatever its edges decide about the nodes that run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.expressions import ExpressionError
from dalang.joining import SKIP
from dalang.planning import Planning
from dalang.run_state import PENDING
from dalang.wire import EventType


class Reviving(Planning):
    """A run's state that may have begun elsewhere."""

    def _take_over(self, seed: Mapping[str, Any]) -> None:
        """Tell what was kept and follow what it means; statuses and edges were restored from the seed's snapshot."""
        for node_id, data, body in seed["facts"]:
            self._emit(EventType.NODE_KEPT, self.program.index[node_id], data, body)
        self._raised.extend((edge, ExpressionError(code, message)) for edge, code, message in seed["raised"])
        self._settle()
        for node, incoming in enumerate(self.program.edges_in):
            if incoming and self.statuses[node] is PENDING and self._verdict(node) == SKIP:
                self._pass_over(node)
        self._settle()
