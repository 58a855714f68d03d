"""Runs and their records: composing, queueing, comparing, tracing."""
