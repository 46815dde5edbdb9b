"""The arms of `benchmarks.training`: what is trained on, the stock recipes, Lensmith, and what is measured of each."""
