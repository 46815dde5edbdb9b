"""`python -m ops.launch PROGRAM ARGUMENT…`: become a program that dies with our parent.

The kernel keeps the parent-death signal over `exec`, so a program that knows nothing of it (Valkey) has it as well.
"""

import os
import sys

from core.process import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the program that `ops.parts` names
