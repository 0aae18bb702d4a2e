"""Measurements that compare alternatives: `python -m benchmarks.NAME` ends with one JSON line."""
