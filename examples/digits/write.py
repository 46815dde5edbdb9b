"""`python -m examples.digits.write digits.zip seven.png`: the demo's data set, and one digit that is not in it."""

import sys
from pathlib import Path

from examples.digits.sample import NUM_UPLOADED, digits, write_zip


def main() -> None:
    """Write both files."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    archive, picture = map(Path, sys.argv[1:])
    everything = digits()
    write_zip(everything[:NUM_UPLOADED], archive)
    seven = next(digit for digit in everything[NUM_UPLOADED:] if digit.word == "seven")
    picture.write_bytes(seven.png)
    print(f"{archive}: {NUM_UPLOADED} examples; {picture}: a seven that is not among them")


if __name__ == "__main__":
    main()
