"""Measurements of the running service; `python -m service.bench.load`."""
