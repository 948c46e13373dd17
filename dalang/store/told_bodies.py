"""Events with their bodies: the one join of ``run_events`` with ``event_bodies``.

A run that began since PostgreSQL last took statistics has one row at most, as far as it knows. Then reading all bodies
of the run for each event looks as cheap as reading the event's own, and 20,000 nodes are not verified in half a minute.
Set apart by the offset, a body is always looked up by the whole key of its event.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import FromClause, select, true

from dalang.store.tables import event_bodies, run_events


def body_at(run_id: Any, epoch: Any, seq: Any, name: str = "told") -> FromClause:
    """Return the body, with its salt, of the event that these columns of an earlier table of the query name."""
    stored = event_bodies.alias()
    same = (stored.c.run_id == run_id) & (stored.c.epoch == epoch) & (stored.c.seq == seq)
    return select(stored.c.tenant_id, stored.c.salt, stored.c.body).where(same).offset(0).lateral(name)


told = body_at(run_events.c.run_id, run_events.c.epoch, run_events.c.seq)
"""The body of the event: ``told.c.salt`` and ``told.c.body``; null where it has none, or was erased."""
told_events: FromClause = run_events.outerjoin(told, true())
"""Events, each with its body."""
