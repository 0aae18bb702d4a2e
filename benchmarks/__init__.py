"""Side-by-side measurements: `python -m benchmarks.NAME` ends with one JSON line."""
