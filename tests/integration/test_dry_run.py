"""Plans of jobs before they are accepted: the dry run, what is refused with the budget that would do, what a job keeps."""

import io
import re
import time

import pytest
from rich.console import Console

from api.jobs import outlooks
from core.queue import Queue
from lensmith import Client
from lensmith.memory_view import draw
from models import dataset as datasets
from models import job as jobs
from models import worker
from models.job import Job
from models.states import WorkState
from models.work import attempts_of
from models.worker import Worker
from tests.integration.lifecycles import bring_to, look

GB = 10**9
BODY = {"base_model": "smolvlm-500m", "dataset": "ds_ready"}
SIZES = {
    "examples": [
        {"count": 900, "images_px": [[768, 1024]], "text_tokens": 60, "answer_tokens": 12},
        {"count": 100, "images_px": [[768, 1024], [600, 600]], "text_tokens": 200, "answer_tokens": 50},
    ],
    "images": [{"count": 1000, "sides_px": [768, 1024]}, {"count": 100, "sides_px": [600, 600]}],
}


@pytest.fixture
def dataset(api_database, ready_dataset):
    """A data set whose sizes were counted."""
    with api_database.write() as session:
        datasets.record(session, ready_dataset, splits={"train": 900, "validation": 100})
        datasets.record_sizes(session, ready_dataset, SIZES)
    return ready_dataset


def there(database, *, number=1, **capacity):
    """Let a worker of the GPU queue be there."""
    facts = {"slots": 1, "cores": 2, "gpus": 0, "classes": [], "device": "CPU, 2 cores", "precision": "bf16"}
    beats = {"started_at_s": 0.0, "heartbeat_at_s": time.time() + 3600}  # however slow this machine is
    with database.write() as session:
        worker.forget(session, f"wrk_{number}")
        session.add(
            Worker(
                id=f"wrk_{number}", queue=Queue.GPU, host="h", pid=1, version="1", capacity=facts | capacity, **beats
            )
        )


def ask(client, *, device=None, **changes):
    question = {"dry_run": True} | ({} if device is None else {"device": device})
    answer = client.post("/jobs", params=question, json=BODY | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(client, pointer, *, params=None, **changes):
    answer = client.post("/jobs", json=BODY | changes, params=params)
    assert answer.status_code == 422, answer.text
    return {error["pointer"]: error["detail"] for error in answer.json()["errors"]}[pointer]


def test_a_dry_run_answers_the_plan_and_makes_nothing(client, dataset):
    found = ask(client, device="l4")
    assert client.get("/jobs").json()["items"] == []
    assert (found["device"], found["place"], found["fits"]) == ("cuda", "l4", True)
    assert found["smallest_gb"] < found["peak"]["high"] / GB <= found["budget_gb"]
    assert {phase["phase"] for phase in found["phases"]} == {"loading", "preparing", "training", "evaluating"}
    assert found["settings"]["method"] == {"type": "qlora", "quantization": "nf4"}
    assert found["settings"]["hyperparameters"]["total_steps"] == found["time"]["steps"] == 171
    assert found["time"]["examples"] == 2700
    seconds = found["time"]["seconds"]
    assert 0 < seconds["low"] < seconds["expected"] < seconds["high"]
    assert "not measured" in found["time"]["source"]
    assert found["based_on"].startswith("sizes of the data set")
    assert found["host"]["files of the base"] > GB
    tiles = 1000 * 13 + 100 * 17
    assert found["disk"]["features"] == tiles * 64 * 960 * 2, "tiles of the pictures themselves, not of a guess"


def test_a_device_that_is_named_bounds_what_the_job_asks_for(client, dataset):
    found = ask(client, device="rtx-4060", resources={"memory_gb": 24})
    assert found["budget_gb"] == 8.0


def test_what_does_not_fit_is_refused_with_the_smallest_budget_that_would(client, dataset):
    detail = refusal(client, "#/resources/memory_gb", resources={"memory_gb": 0.5})
    assert "does not fit resources.memory_gb 0.5" in detail
    least = float(re.search(r"memory_gb of ([\d.]+) or more", detail)[1])
    assert client.get("/jobs").json()["items"] == []
    assert refusal(client, "#/resources/memory_gb", resources={"memory_gb": least - 0.1})
    assert client.post("/jobs", json=BODY | {"resources": {"memory_gb": least}}).status_code == 202
    told = ask(client, resources={"memory_gb": 0.5})
    assert (told["fits"], told["smallest_gb"]) == (False, least)


def test_pictures_may_be_cut_into_fewer_tiles_only_where_the_job_allows_it(client, dataset):
    exact = {"feature_cache": False, "compact_memory": False}
    strict = ask(client, hyperparameters=exact, resources={"memory_gb": 0.5})["smallest_gb"]
    asked = {"hyperparameters": exact, "allow_quality_tradeoff": True}
    loose = ask(client, **asked, resources={"memory_gb": 0.5})["smallest_gb"]
    assert loose < strict
    found = ask(client, **asked, resources={"memory_gb": loose})
    assert found["settings"]["image"]["longest_edge"] in {1024, 512}
    assert any("less detail" in choice for choice in found["choices"])
    job = client.post("/jobs", json=BODY | asked | {"resources": {"memory_gb": loose}}).json()
    assert job["allow_quality_tradeoff"] is True


def test_a_job_has_its_plan_from_the_beginning_and_a_worker_needs_room_for_it(client, api_database, dataset):
    unseen = client.post("/jobs", json=BODY).json()["id"]
    assert (look(api_database, unseen).needed_bytes, look(api_database, unseen).least_bytes) == (None, None), (
        "whichever worker comes may be of another kind"
    )
    there(api_database, memory_bytes=100 * GB)
    client.app.state.services.outlooks._workers = None  # a second later
    job_id = client.post("/jobs", json=BODY).json()["id"]
    plan = client.get(f"/jobs/{job_id}/plan").json()
    assert plan["peak"]["phase"] == client.get(f"/jobs/{job_id}").json()["plan"]["phase"]
    assert (plan["measured"], plan["error"], plan["time"]["steps"]) == (None, None, 171)
    work = look(api_database, job_id)
    assert work.least_bytes == pytest.approx(ask(client)["smallest_gb"] * GB, rel=0.1)
    assert work.least_bytes < work.needed_bytes < plan["peak"]["high"], "pages of the feature cache need not be free"
    bounded = look(api_database, client.post("/jobs", json=BODY | {"resources": {"memory_gb": 50}}).json()["id"])
    assert bounded.least_bytes == bounded.needed_bytes == work.needed_bytes, "it may hold what it was given"


def test_what_no_worker_holds_is_refused_unless_the_job_says_that_it_waits(client, api_database, dataset):
    there(api_database, memory_bytes=GB)
    detail = refusal(client, "#/resources/memory_gb")
    assert "fits no worker that is running" in detail
    assert "the largest (CPU, 2 cores) has 1 GB" in detail
    least = float(re.search(r"memory_gb of ([\d.]+) or more", detail)[1])
    job_id = client.post("/jobs", json=BODY | {"resources": {"memory_gb": least}}).json()["id"]
    assert client.get(f"/jobs/{job_id}").json()["waiting_for"].startswith("no worker has ")
    there(api_database, memory_bytes=100 * GB)
    client.app.state.services.outlooks._workers = None  # a second later
    assert client.post("/jobs", json=BODY).status_code == 202


def test_the_time_is_that_of_earlier_jobs_on_such_a_device_where_there_are_any(client, api_database, dataset):
    there(api_database, memory_bytes=100 * GB)
    first = ask(client)["time"]
    assert first["source"] == "operations over what cores like these did"
    for device in ("CPU, 2 cores", "another"):
        job_id = bring_to(client, api_database, WorkState.SUCCEEDED, **BODY)
        with api_database.write() as session:
            plan = session.get_one(Job, job_id).plan | {"place": device}
            jobs.record(session, job_id, plan=plan, measured={"peak_memory_bytes": 1})
            (attempt,) = attempts_of(session, job_id)
            attempt.ended_s = attempt.began_s + {"CPU, 2 cores": 1000.0, "another": 1.0}[device]
            session.add(attempt)
    client.app.state.services.outlooks._rates.clear()  # half a minute later
    found = ask(client)["time"]
    assert found["source"] == "earlier jobs with this base"
    assert found["seconds"]["expected"] == pytest.approx(1000, rel=0.01), "of as many operations on as good a device"
    assert ask(client, hyperparameters={"epochs": 6})["time"]["seconds"]["expected"] > 1500


def test_a_smaller_device_that_would_do_is_not_forgotten_for_one_that_is_too_small(client, api_database, dataset):
    there(api_database, memory_bytes=GB, gpus=1, device="NVIDIA Unheard-of")
    assert "NVIDIA Unheard-of" in refusal(client, "#/resources/memory_gb")
    there(api_database, number=2, memory_bytes=60 * GB)
    client.app.state.services.outlooks._workers = None
    job_id = client.post("/jobs", json=BODY).json()["id"]
    assert client.get(f"/jobs/{job_id}/plan").json()["device"] == "cpu"
    assert look(api_database, job_id).needed_bytes is None, "either may take it; their memories are not one figure"


def test_what_a_worker_does_not_say_is_in_nobodys_way(client, api_database, dataset):
    there(api_database, memory_bytes=None, gpus=1, device="GPU", precision=None)
    found = ask(client)
    assert (found["fits"], found["budget_gb"], found["device"]) == (True, None, "cuda")
    on_host = ask(client, resources={"gpus": 0})
    assert (on_host["device"], on_host["budget_gb"]) == ("cpu", None)
    job_id = client.post("/jobs", json=BODY | {"resources": {"gpus": 0}}).json()["id"]
    assert look(api_database, job_id).needed_bytes is None, "the card's memory is not its"


def test_several_processes_on_one_machine_each_hold_a_copy(client, api_database, dataset):
    there(api_database, memory_bytes=100 * GB)
    one, four = (client.post("/jobs", json=BODY | {"resources": {"gpus": 0, "num_processes": each}}) for each in (1, 4))
    needed = [look(api_database, job.json()["id"]).needed_bytes for job in (one, four)]
    assert needed[1] == 4 * needed[0]


def test_a_sweep_over_what_changes_no_memory_is_planned_once(client, dataset):
    grid = {"hyperparameters.learning_rate": [1e-4, 2e-4, 3e-4], "hyperparameters.weight_decay": [0.0, 0.1]}
    assert client.post("/jobs/batch", json={"job": BODY, "grid": grid}).status_code == 202
    assert len(client.app.state.services.outlooks._kept) == 1


def test_a_plan_is_made_with_no_transaction_open(client, dataset, monkeypatch):
    database, look_ahead = client.app.state.services.database, outlooks.look_ahead

    def watched(*args, **options):
        with database.write():  # SQLite has one writer: this would wait for ever
            return look_ahead(*args, **options)

    monkeypatch.setattr(outlooks, "look_ahead", watched)
    assert client.post("/jobs", json=BODY).status_code == 202
    assert ask(client)["fits"]


def test_features_that_the_system_can_take_back_need_not_fit(client, api_database, dataset):
    many = SIZES | {"images": [{"count": 200_000, "sides_px": [768, 1024]}]}
    with api_database.write() as session:
        datasets.record_sizes(session, dataset, many)
    found = ask(client, device="cpu")
    assert found["disk"]["features"] > 100 * GB
    assert found["smallest_gb"] < 10
    few = ask(client, device="cpu", hyperparameters={"max_steps": 10})
    assert few["disk"]["features"] < found["disk"]["features"] / 3, "those of its steps and of validation"


@pytest.mark.parametrize(
    ("asked", "pointer", "says"),
    [
        ({"params": {"device": "abacus"}}, "#/device", "known are cpu, t4"),
        ({"params": [("dry_run", True), ("dry_run", False)]}, "#/dry_run", "more than once"),
        ({"base_model": "qwen2.5-vl-3b"}, "#/base_model", "another family"),
        ({"resources": {"gpus": 2, "parallelism": "model"}}, "#/resources/parallelism", "not planned"),
        ({"dataset": "ds_01m8m4z6j0ey893tpzn89q3513"}, "#/dataset", "no data set"),
        ({"hyperparameters": {"epochs": -1}}, "#/hyperparameters/epochs", "greater than 0"),
    ],
)
def test_a_dry_run_says_which_field_is_in_the_way(client, dataset, asked, pointer, says):
    params = asked.pop("params", {})
    params = params if isinstance(params, list) else {"dry_run": True} | params
    assert says in refusal(client, pointer, params=params, **asked)


def test_a_job_that_cannot_be_planned_is_accepted_and_has_no_plan(client, ready_dataset):
    assert "Nobody counted" in refusal(client, "#/dataset", params={"dry_run": True})
    job = client.post("/jobs", json=BODY)
    assert (job.status_code, job.json()["plan"]) == (202, None)


def test_a_device_beside_no_dry_run_makes_no_job(client, dataset):
    assert "for a dry run" in refusal(client, "#/device", params={"device": "l4"})
    assert client.get("/jobs").json()["items"] == []


def test_a_batch_says_which_of_its_jobs_do_not_fit(client, dataset):
    job = BODY | {"resources": {"memory_gb": 2.5}}
    answer = client.post(
        "/jobs/batch", json={"job": job, "grid": {"method.r": [8, 256], "resources.memory_gb": [0.5, 50]}}
    )
    assert answer.status_code == 422
    assert {error["pointer"] for error in answer.json()["errors"]} == {"#/grid/resources.memory_gb/0"}
    assert client.get("/jobs").json()["items"] == []


def test_a_person_sees_whether_it_fits_and_how_long_it_takes(client, dataset):
    console = Console(record=True, width=140, file=io.StringIO())
    with Client(http=client) as sdk:
        draw(sdk.jobs.dry_run(**BODY, device="t4"), console)
        draw(sdk.jobs.dry_run(**BODY, resources={"memory_gb": 0.5}), console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert any(re.match(r"Fits 15.2 GB; at the least it needs [\d.]+ GB", line) for line in lines)
    assert any(re.match(r"Time \d+ \w+, between \d+ \w+ and \d+ \w+ \(operations over", line) for line in lines)
    assert any(re.match(r"Does not fit 0.5 GB; it needs [\d.]+ GB", line) for line in lines)
