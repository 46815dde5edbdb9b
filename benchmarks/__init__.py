"""Measurements: ours beside a peer in the same run, `make bench`; each is `python -m benchmarks.NAME`."""
