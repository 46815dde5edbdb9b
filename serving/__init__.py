"""Generation: one base, many adapters, in a process of its own that sees no rows."""
