"""Benchmarks that need neither torch nor the service: ``python -m facemargin.bench.index``."""
