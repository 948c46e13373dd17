"""Alembic migrations; ``dalang.store.migrate`` runs them."""
