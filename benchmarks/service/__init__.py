"""The servers that `benchmarks.api` measures, and the clients that load them."""
