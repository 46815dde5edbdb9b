"""`lensmith jobs …` against the API: what is typed happens, and what is printed is what there is."""

import json
from contextlib import nullcontext

import pytest
import typer
from typer.testing import CliRunner

from core.storage import Storage
from lensmith import Client, job_commands
from lensmith.commands import add_commands
from models import event
from models.event import Item
from models.states import EventKind, WorkState
from tests.integration.lifecycles import BODY, bring_to, claim, create, finish, keep_checkpoint


@pytest.fixture
def run(client, monkeypatch):
    """Run a command; return its exit status, what it printed, and what it complained of."""
    monkeypatch.setattr(job_commands, "Client", lambda: nullcontext(Client(http=client)))
    app = typer.Typer()
    add_commands(app)

    def invoke(*arguments: str):
        done = CliRunner().invoke(app, ["jobs", *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout.strip(), done.stderr.strip()

    return invoke


def rows(done) -> list[dict]:
    """Return what a command printed with `--json`: a row on each line."""
    return [json.loads(line) for line in done[1].splitlines()]


def test_a_job_is_made_listed_and_cloned(run, client, ready_dataset):
    made = ("--base-model", "tiny", "--dataset", ready_dataset, "--options", '{"seed": 7, "name": "first"}')
    status, job_id, _ = run("create", *made)
    assert status == 0
    status, clone_id, _ = run("clone", job_id, "--changes", '{"seed": 8}')
    seeds = {each["id"]: each["seed"] for each in client.get("/jobs").json()["items"]}
    assert seeds == {job_id: 7, clone_id: 8}
    listed = rows(run("list", "--state", "queued", "--json"))
    assert [(each["id"], each["name"]) for each in listed] == [(clone_id, "first"), (job_id, "first")]
    assert rows(run("list", "--state", "failed", "--json")) == []
    assert json.loads(run("show", job_id)[1])["id"] == job_id


def test_a_job_goes_through_its_life(run, client, api_database, settings, ready_dataset):
    job_id = bring_to(client, api_database, WorkState.PAUSED)
    assert run("resume", job_id)[:2] == (0, "queued")
    claimed = claim(api_database)
    assert run("pause", job_id)[:2] == (0, "pausing")
    status, printed, complaint = run("cancel", job_id)
    assert (status, printed) == (1, "")
    assert "is pausing and cannot be cancelled" in complaint
    assert finish(api_database, claimed, WorkState.FAILED)
    keep_checkpoint(api_database, Storage.from_url(settings.resolved_storage_url), job_id)
    (checkpoint,) = rows(run("checkpoints", job_id, "--json"))
    assert checkpoint["step"] == 5
    outcomes = [each["outcome"] for each in rows(run("attempts", job_id, "--json"))]
    assert outcomes == ["paused", "failed"]
    assert run("retry", job_id, "--from-start")[:2] == (0, "queued")
    assert rows(run("checkpoints", job_id, "--json")) == []
    assert run("cancel", job_id)[:2] == (0, "cancelled")
    assert run("delete", job_id)[0] == 2, "without a terminal it must be told that nobody is asked"
    assert run("delete", job_id, "--yes")[0] == 0
    assert client.get(f"/jobs/{job_id}").status_code == 404


def test_logs_and_metrics_are_printed_as_they_are(run, client, api_database, ready_dataset):
    job_id = bring_to(client, api_database, WorkState.RUNNING)
    with api_database.write() as session:
        event.append(session, job_id, [Item(kind=EventKind.METRIC, data={"step": 1, "loss": 2.0})])
    (line,) = run("logs", job_id, "--kind", "metric")[1].splitlines()
    assert json.loads(line)["data"] == {"step": 1, "loss": 2.0}
    (point,) = rows(run("metrics", job_id, "--json"))
    assert (point["step"], point["figures"]["loss"]) == (1, 2.0)


@pytest.mark.parametrize(("state", "status", "says"), [("succeeded", 0, "adapter"), ("failed", 1, "failed: It broke.")])
def test_watching_ends_with_the_job_and_tells_by_the_status_how(
    run, client, api_database, ready_dataset, state, status, says
):
    job_id = bring_to(client, api_database, WorkState(state))
    ended, printed, complaint = run("watch", job_id)
    assert (ended, says in printed + complaint) == (status, True), (printed, complaint)


def test_a_batch_is_made_shown_listed_and_cancelled(run, ready_dataset):
    asked = ("--job", json.dumps(BODY), "--grid", '{"method.r": [4, 8]}', "--name", "sweep")
    status, batch_id, _ = run("batch", "create", *asked)
    assert status == 0
    assert json.loads(run("batch", "show", batch_id)[1])["states"] == {"queued": 2}
    (listed,) = rows(run("batch", "list", "--json"))
    assert (listed["id"], listed["num_jobs"]) == (batch_id, 2)
    assert len(rows(run("list", "--batch", batch_id, "--json"))) == 2
    status, printed, _ = run("batch", "cancel", batch_id)
    assert (status, printed.count("cancelled")) == (0, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--base-model", "tiny", "--dataset", "ds_ready", "--options", "[]"),
        ("clone", "job_x", "--changes", "{"),
        ("batch", "create", "--job", "{}", "--grid", "nothing"),
    ],
)
def test_json_that_is_none_is_a_usage_error_and_makes_nothing(run, client, ready_dataset, arguments):
    assert run(*arguments)[0] == 2
    assert client.get("/jobs").json()["items"] == []


def test_a_refusal_of_the_server_is_one_sentence(run, client, ready_dataset):
    status, printed, complaint = run("clone", create(client), "--changes", '{"seed": -1}')
    assert (status, printed) == (1, "")
    assert "#/seed" in complaint
    assert "Traceback" not in complaint
