"""Rows: the tables, their states, and every SQL statement. Never weights.

`work` holds the life of every leased piece of work (state, lease, fence, attempts, log); `dataset` and `job` share its
primary key and hold what is theirs. So claim, heartbeat, cancel and sweep are written once.
"""
