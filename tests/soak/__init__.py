"""The soak: real servers, real training, and something killed at random moments, again and again.

`python -m tests.soak --rounds 200 --database sqlite --seed 1`. Every job has to end once, as if nothing had happened.
"""
