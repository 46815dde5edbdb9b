"""`python -m tests.contract.snapshot`: write the API's schema where the test compares it."""

import json
from pathlib import Path

from api.app import create_app
from core.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def current() -> str:
    """Return the schema of the API as it stands, as the snapshot is written."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(current())
