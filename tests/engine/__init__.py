"""Runs on real Temporal and real PostgreSQL."""
