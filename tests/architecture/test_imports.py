"""The rules of the rooms: checked by import-linter, proved able to fail, and seen at run time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_python

ROOT = Path(__file__).parents[2]
HEAVY = ("accelerate", "bitsandbytes", "datasets", "pandas", "peft", "torch", "transformers", "trl")
LIGHT_ROOMS = ("api", "core", "ingest", "lensmith", "models", "ops", "worker")

# What a process of each light part has imported when it is ready to work.
ENTRIES = {
    "the API": "import api.main, api.app; from core.settings import Settings; api.app.create_app(Settings())",
    "the Celery parent": "import worker.main, worker.app; worker.app.app.finalize()",
    "the command line": "import ops.cli, ops.up, ops.parts",
    "the SDK": "import lensmith, lensmith.commands",
    "the child of a validation": "import ingest.run",
    "a validation that could measure": "import ingest.validate, ingest.ruler, vlm.measure, vlm.image_options, vlm.labels",
    "the migrations": "import ops.migrate, models.schema, models.job, models.adapter",
}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def copy_of_the_rooms(target: Path) -> Path:
    for room in (*LIGHT_ROOMS, "serving", "training", "vlm"):
        shutil.copytree(ROOT / room, target / room, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("core/clock.py", "import torch", "No torch"),
        ("ingest/split.py", "def late():\n    import transformers", "No torch"),
        ("vlm/catalog.py", "import peft", "No torch"),
        ("ingest/validate.py", "def late():\n    import vlm.base_ruler", "No torch"),
        ("ops/check.py", "def late():\n    import ingest.run", "started, never imported"),
        ("worker/validation.py", "def late():\n    from ingest.run import Spec", "started, never imported"),
        ("training/settings.py", "import models.job", "never see a row"),
        ("serving/engine.py", "import models.job", "Serving sees no rows"),
        ("core/ids.py", "import api.auth", "Imports point down"),
        ("worker/hub.py", "import datasets", "Only the child that reads the Hub"),
        ("lensmith/client.py", "import core.errors", "The SDK shares no code"),
    ],
)
def test_a_rule_that_is_broken_is_found(tmp_path, file, line, contract):
    root = copy_of_the_rooms(tmp_path)
    with (root / file).open("a") as source:
        source.write(f"\n\n{line}\n")
    done = lint(root)
    assert done.returncode != 0
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]
    assert any(contract in text for text in broken), done.stdout


@pytest.mark.parametrize("part", ENTRIES)
def test_a_light_part_has_no_heavy_library_in_memory(part):
    done = run_python(f"{ENTRIES[part]}\nimport sys\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


VALIDATE = f"""
import sys, ingest.run
from core.child import run_child
status = run_child(ingest.run.work)
print(status, sorted(set({HEAVY!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize(("base_model", "heavy"), [(None, False), ("tiny", True)])
def test_only_a_validation_that_measures_for_a_base_loads_torch(tmp_path, base_model, heavy):
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "x"}]} for i in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"source": str(tmp_path / "rows.jsonl"), "container": "jsonl"}
    if base_model is not None:
        spec |= {"base_model": base_model, "models_dir": str(tmp_path / "models")}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "staging").mkdir()
    told = ["--spec", str(tmp_path / "spec.json"), "--staging", str(tmp_path / "staging"), "--events-fd", "2"]
    done = run_python(f"import sys; sys.argv[1:] = {told!r}\n{VALIDATE}")
    status, _, libraries = done.stdout.strip().partition(" ")
    assert status == "0", done.stderr
    assert ("torch" in libraries) is heavy
    assert heavy or libraries == "[]"


DANGLING = """
from sqlmodel import SQLModel
tables = SQLModel.metadata.tables
referred = {key.target_fullname.partition(".")[0] for table in tables.values() for key in table.foreign_keys}
print(len(tables) > 0, sorted(referred - set(tables)))
"""


@pytest.mark.parametrize("part", ["the API", "the Celery parent", "the command line"])
def test_a_part_has_every_table_that_its_tables_refer_to(part):
    done = run_python(f"{ENTRIES[part]}\n{DANGLING}")
    assert done.stdout.strip() == "True []", done.stderr


def test_a_heavy_part_would_be_noticed():
    done = run_python(f"import vlm.loading\nimport sys\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert "torch" in done.stdout
