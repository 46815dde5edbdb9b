"""`python -m tests.soak --rounds 200 --database sqlite --seed 1`."""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Soak


def main() -> int:
    """Run it, and keep the folder with all logs when it fails."""
    parser = argparse.ArgumentParser(description="Kill everything at random, and see that every job ends right.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # else its servers stay
    folder = Path(tempfile.mkdtemp(prefix="lensmith-soak-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
    try:
        told = Soak(folder, kind=arguments.database, seed=arguments.seed).run(arguments.rounds)
    except AssertionError as failed:
        print(f"{failed}\nthe logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    print(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
