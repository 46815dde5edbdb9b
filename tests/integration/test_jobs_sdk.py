"""The SDK's verbs for jobs, against the API."""

import pytest

from core.storage import Storage
from lensmith import ApiError, Client
from models import event
from models.event import Item
from models.states import EventKind, WorkState
from tests.integration.lifecycles import BODY, bring_to, keep_checkpoint


@pytest.fixture
def sdk(client):
    with Client(http=client) as opened:
        yield opened


def test_every_verb_does_what_it_says(sdk, client, api_database, settings, ready_dataset):
    running = bring_to(client, api_database, WorkState.RUNNING)
    assert sdk.jobs.pause(running).state == "pausing"
    paused = bring_to(client, api_database, WorkState.PAUSED)
    assert sdk.jobs.resume(paused).state == "queued"
    assert sdk.jobs.cancel(paused).state == "cancelled"
    assert sdk.jobs.retry(paused, from_checkpoint=False).state == "queued"
    sdk.jobs.cancel(paused)
    keep_checkpoint(api_database, Storage.from_url(settings.resolved_storage_url), paused)
    assert [each.step for each in sdk.jobs.checkpoints(paused)] == [5]
    assert [each.outcome for each in sdk.jobs.attempts(paused)] == ["paused"]
    with api_database.write() as session:
        event.append(session, paused, [Item(kind=EventKind.METRIC, data={"step": 1, "loss": 2.0})])
        event.append(session, paused, [Item(kind=EventKind.SAMPLE, data={"answer": "red"})])
    (point,) = sdk.jobs.metrics(paused)
    assert (point.step, point.figures["loss"]) == (1, 2.0)
    assert [item.data for item in sdk.jobs.samples(paused)] == [{"answer": "red"}]
    clone = sdk.jobs.clone(paused, seed=9)
    assert (clone.clone_of, clone.model_extra["seed"]) == (paused, 9)
    sdk.jobs.delete(paused)
    with pytest.raises(ApiError) as gone:
        sdk.jobs.get(paused)
    assert gone.value.status == 404


def test_what_is_not_allowed_says_what_is(sdk, client, api_database, ready_dataset):
    with pytest.raises(ApiError, match="allowed now: cancel") as refused:
        sdk.jobs.pause(bring_to(client, api_database, WorkState.QUEUED))
    assert refused.value.status == 409


def test_a_batch_is_made_watched_and_cancelled(sdk, ready_dataset):
    batch = sdk.jobs.batches.create(BODY, {"method.r": [4, 8]}, name="sweep")
    assert [each.id for each in sdk.jobs.batches.list()] == [batch.id]
    assert len(list(sdk.jobs.list(batch=batch.id))) == 2
    assert not sdk.jobs.batches.get(batch.id).has_ended
    assert sdk.jobs.batches.cancel(batch.id).has_ended
    assert sdk.jobs.batches.wait(batch.id).id == batch.id
