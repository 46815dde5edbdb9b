"""The parts of `benchmarks.memory`: which runs are measured, one run in a process of its own, the table."""
