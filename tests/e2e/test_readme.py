"""The README's walk-through, run as it is written, but on `tiny` and for two steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lensmith import Client
from tests.e2e.conftest import start

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
MARK = "== block =="


def blocks() -> list[str]:
    """Return the shell blocks of the walk-through, without the first, which starts the service."""
    section = re.search(r"^## The same by hand$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    first, *others = re.findall(r"^```bash\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert first.strip() == "make up"
    return others


def adapted(block: str, address: str) -> str:
    """Return a block for a test: another address, this interpreter, the smallest model, two steps."""
    for old, new in (
        ("localhost:8000", address),
        (".venv/bin/python", sys.executable),
        ("lensmith-demo", "tiny"),
        ('"max_steps": 150', '"max_steps": 2'),
        ("curl -s", "curl --fail-with-body -s"),
    ):
        block = block.replace(old, new)
    return block


def test_every_block_of_the_walk_through_runs_and_the_last_ones_print_an_answer(tmp_path):
    write, upload, *others = blocks()
    service = start(tmp_path / "data")
    until_ready = 'until [ "$(state)" = ready ]; do sleep 0.2; done\n'
    state = f"state() {{ curl -s {service.url}/datasets/$DATASET | {sys.executable} -c "
    state += "\"import json,sys; print(json.load(sys.stdin)['state'])\"; }\n"
    script = [adapted(block, service.url.removeprefix("http://")) for block in (write, upload, *others)]
    before, ask, after = script[1].partition(
        "curl --fail-with-body -s " + service.url.removeprefix("http://") + "/datasets/$DATASET/report"
    )
    assert ask, "the block asks for the report"
    script[1] = before + state + until_ready + ask + after  # the reader waits as well: the text above the block says so
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"echo '{MARK}'\n".join(["", *script])],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        _, _, uploaded, created, followed, asked, taken = done.stdout.split(MARK)
        assert '"state":"validating"' in uploaded or '"id":"ds_' in uploaded
        assert '"id":"job_' in created
        assert "event: end" in followed
        assert [('"text":' in line) for line in asked.split("\n") if line.strip()] == [True, True]
        assert "adapter_model.safetensors" in taken
    finally:
        service.stop()


def test_the_python_of_the_walk_through_names_what_the_sdk_has():
    code = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    compile(code, "README.md", "exec")
    with Client() as client:
        for room, verb in re.findall(r"client\.(\w+)\.(\w+)\(", code):
            assert callable(getattr(getattr(client, room), verb)), (room, verb)
