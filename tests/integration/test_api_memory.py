"""`GET /jobs/{id}/plan` and `GET /stats/memory`."""

import io

import pytest
from rich.console import Console

from lensmith import Client
from lensmith.memory_view import draw
from models import job as jobs
from models.states import WorkState
from tests.integration.lifecycles import bring_to

GB = 10**9


def plan(expected_gb):
    """Return a plan as a child tells it: an empty process of 1 GB, and what lies above it in two phases."""

    def phase(name, above_gb):
        bounds = {"low": round((1 + 0.9 * above_gb) * GB), "high": round((1 + 1.2 * above_gb) * GB)}
        parts = {"process": GB, "base.text": round(above_gb * GB)}
        return {"phase": name, "expected": round((1 + above_gb) * GB), "parts": parts} | bounds

    phases = [phase("loading", expected_gb / 2), phase("training", expected_gb)]
    peak = {name: phases[1][name] for name in ("phase", "low", "expected", "high")}
    return {"device": "cpu", "peak": peak, "phases": phases, "disk": {"features": 5}, "source": "a test"}


def held(peak_gb):
    by_phase = {"loading": GB, "training": round((1 + peak_gb) * GB), "publishing": GB}
    peak = {"peak_memory_bytes": round((1 + peak_gb) * GB), "empty_memory_bytes": GB}
    return peak | {"peak_memory_by_phase": by_phase}


@pytest.fixture
def job(client, api_database, ready_dataset):
    """Make a job in a state, with a plan and what was measured."""

    def job(state, **columns):
        job_id = bring_to(client, api_database, state)
        if columns:
            with api_database.write() as session:
                jobs.record(session, job_id, **columns)
        return job_id

    return job


def test_a_running_job_shows_where_its_memory_goes(client, job):
    job_id = job(WorkState.RUNNING, plan=plan(2.0))
    shown = client.get(f"/jobs/{job_id}/plan").json()
    assert shown["peak"] == {"phase": "training", "low": 2.8 * GB, "expected": 3 * GB, "high": 3.4 * GB}
    assert [each["phase"] for each in shown["phases"]] == ["loading", "training"]
    assert shown["phases"][1]["parts"] == {"process": GB, "base.text": 2 * GB}
    assert (shown["measured"], shown["error"], shown["phases"][1]["measured"]) == (None, None, None)
    assert shown["disk"] == {"features": 5}
    assert client.get(f"/jobs/{job_id}").json()["plan"] == shown["peak"]


def test_a_finished_job_shows_what_it_held_beside_what_was_expected(client, job):
    job_id = job(WorkState.SUCCEEDED, plan=plan(2.0), measured=held(2.5))
    shown = client.get(f"/jobs/{job_id}/plan").json()
    assert shown["measured"] == {"peak": 3.5 * GB, "process": GB}
    assert shown["error"] == pytest.approx(-0.2)
    assert [each["measured"] for each in shown["phases"]] == [GB, 3.5 * GB]
    with Client(http=client) as sdk:
        assert sdk.jobs.plan(job_id).error == pytest.approx(-0.2)


def test_a_person_sees_at_a_glance_where_the_memory_goes(client, job):
    job_id = job(WorkState.SUCCEEDED, plan=plan(2.0), measured=held(2.5))
    console = Console(record=True, width=100, file=io.StringIO())
    with Client(http=client) as sdk:
        draw(sdk.jobs.plan(job_id), console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == (
        "Peak 3.00 GB on cpu while training, between 2.80 GB and 3.40 GB; it held 3.50 GB (-20.0% planned)"
    )
    assert "training 3.00 GB 3.40 GB 3.50 GB" in lines
    assert f"base.text {'█' * 32} 2.00 GB 67%" in lines
    assert f"process {'█' * 16} 1.00 GB 33%" in lines


def test_a_job_that_has_not_loaded_has_no_plan_yet(client, job):
    answer = client.get(f"/jobs/{job(WorkState.QUEUED)}/plan")
    assert answer.status_code == 404
    assert "has no plan" in answer.json()["detail"]
    assert client.get("/jobs/job_01m8m4z6j0ey893tpzn89q3513/plan").status_code == 404


def test_the_errors_of_finished_jobs_are_added_up(client, job):
    assert client.get("/stats/memory").json() == {"num_jobs": 0, "mean_error": None, "worst_error": None, "items": []}
    job(WorkState.SUCCEEDED, plan=plan(2.0), measured=held(2.5))
    job(WorkState.SUCCEEDED, plan=plan(1.1), measured=held(1.0))
    job(WorkState.RUNNING, plan=plan(5.0))
    found = client.get("/stats/memory").json()
    assert found["num_jobs"] == 2
    assert found["mean_error"] == pytest.approx(0.15)
    assert found["worst_error"] == pytest.approx(0.2)
    (kind,) = found["items"]
    assert (kind["device"], kind["base_model"], kind["num_jobs"]) == ("cpu", "tiny", 2)
    assert kind["bias"] == pytest.approx(-0.05)
    assert client.get("/stats/memory", params={"limit": 1}).json()["num_jobs"] == 1
