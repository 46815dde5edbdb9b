import asyncio
import json
import queue
import subprocess
import sys
import threading
import time
from contextlib import aclosing

import pytest

from core.errors import Busy, Problem, TimedOut, Unavailable
from serving.engine import MAX_BATCH_ROWS, Engine
from serving.exchange import ClientGone, exchange
from serving.ticket import Ticket
from serving.wire import Delta, Generated, GenerateRequest

DEADLINE_S = 60


def until(is_so, what: str) -> None:
    """Wait for a condition that another thread brings about."""
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end, what
        threading.Event().wait(0.01)


def ticket_of(body) -> tuple[Ticket, "queue.SimpleQueue"]:
    events: queue.SimpleQueue = queue.SimpleQueue()
    request = GenerateRequest.model_validate(body)
    return Ticket(request=request, images=(), deliver=events.put, submitted_at=time.perf_counter()), events


def health(client):
    return client.get("/healthz").json()


@pytest.fixture
def engine(world):
    engine = Engine(world.settings)
    yield engine
    engine.close(timeout_s=DEADLINE_S)


def test_health_is_up_before_anything_is_loaded_and_then_names_what_is(client_of, world, ask, adapters, lively):
    client = client_of(world.settings)
    assert health(client) == {
        "status": "up",
        "engine": "idle",
        "bases": [],
        "adapters": [],
        "waiting": 0,
        "running": 0,
    }
    client.post("/generate", json=ask(adapter=adapters[0]))
    until(lambda: health(client)["running"] == 0, "the engine rests")
    after = health(client)
    assert after["engine"] == "ready"
    assert after["bases"] == [str(lively)]
    assert after["adapters"] == [adapters[0]["sha256"]]


def test_an_adapter_that_was_evicted_is_loaded_again(client_of, world, ask, adapters):
    client = client_of(world.with_options(serving_adapters=2))
    texts = {}
    for _ in range(3):
        for adapter in adapters:
            answer = client.post("/generate", json=ask(adapter=adapter)).json()
            assert texts.setdefault(adapter["sha256"], answer["text"]) == answer["text"]
            until(lambda: health(client)["running"] == 0, "the engine rests")
            assert len(health(client)["adapters"]) <= 2
    assert len(set(texts.values())) == 3


def test_a_base_that_was_evicted_is_loaded_again(client_of, world, ask, adapters):
    client = client_of(world.with_options(serving_bases=1))
    first = client.post("/generate", json=ask(adapter=adapters[0])).json()["text"]
    client.post("/generate", json=ask(base="tiny"))
    until(lambda: health(client)["running"] == 0, "the engine rests")
    assert health(client)["bases"] == ["tiny"]
    assert client.post("/generate", json=ask(adapter=adapters[0])).json()["text"] == first


def test_an_adapter_for_another_base_is_refused_and_the_base_goes_on(client_of, world, ask, adapters):
    client = client_of(world.settings)
    refused = client.post("/generate", json=ask(base="tiny", adapter=adapters[0]))
    assert refused.status_code == 422
    assert refused.json()["code"] == "adapter_incompatible"
    assert client.post("/generate", json=ask(base="tiny")).status_code == 200


def test_an_adapter_with_a_vocabulary_of_its_own_is_refused(client_of, fresh_world, ask):
    folder = fresh_world.make_adapter("odd", seed=4)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["added_tokens"].append(document["added_tokens"][-1] | {"id": 5000, "content": "<new>"})
    path.write_text(json.dumps(document))
    client = client_of(fresh_world.settings)
    refused = client.post("/generate", json=ask(adapter=fresh_world.publish(folder)))
    assert refused.status_code == 422
    assert "processor" in refused.json()["detail"]
    assert client.post("/generate", json=ask()).status_code == 200


def test_a_damaged_adapter_is_refused_with_a_sentence(client_of, fresh_world, ask):
    ref = fresh_world.publish(fresh_world.make_adapter("a", seed=1))
    stored = fresh_world.stored(ref, "adapter_model.safetensors")
    data = bytearray(stored.read_bytes())
    data[-2] ^= 0x40
    stored.write_bytes(data)
    refused = client_of(fresh_world.settings).post("/generate", json=ask(adapter=ref))
    assert refused.status_code == 409
    assert refused.json()["code"] == "adapter_damaged"


def test_waiting_requests_of_one_kind_run_as_one_batch(engine, ask):
    pairs = [ticket_of(ask(f"question {index}")) for index in range(MAX_BATCH_ROWS + 2)]
    for ticket, _ in pairs:
        engine.submit(ticket)
    engine.start()
    answers = [events.get(timeout=DEADLINE_S) for _, events in pairs]
    assert all(isinstance(answer, Generated) for answer in answers)
    assert len({answer.timings.generate_s for answer in answers}) == 2


def test_a_full_queue_refuses_and_counts_only_who_still_waits(world, ask):
    engine = Engine(world.with_options(serving_queue=2))
    tickets = [ticket_of(ask())[0] for _ in range(3)]
    engine.submit(tickets[0])
    engine.submit(tickets[1])
    with pytest.raises(Busy):
        engine.submit(tickets[2])
    tickets[0].cancel()
    engine.submit(tickets[2])


def test_a_full_queue_refuses_before_a_picture_is_decoded(client_of, world, ask):
    client = client_of(world.with_options(serving_queue=1))
    engine = client.app.state.engine
    running, events = ticket_of(ask(max_tokens=900, stream=True))
    engine.submit(running)
    assert isinstance(events.get(timeout=DEADLINE_S), Delta)
    engine.submit(ticket_of(ask())[0])
    refused = client.post("/generate", json=ask(images=("data:image/png;base64,AAAA",)))
    running.cancel()
    assert refused.status_code == 429


def test_a_cancelled_ticket_ends_at_its_next_token(engine, ask):
    ticket, events = ticket_of(ask(max_tokens=900, stream=True))

    def cancel_at_the_first(event):
        events.put(event)
        ticket.cancel()

    ticket.deliver = cancel_at_the_first
    engine.submit(ticket)
    engine.start()
    assert isinstance(events.get(timeout=DEADLINE_S), Delta)
    assert isinstance(events.get(timeout=DEADLINE_S), Unavailable)
    until(lambda: engine.health().running == 0, "the row is freed")
    assert events.empty()


def test_an_engine_that_died_says_so_to_everyone(client_of, world, ask, monkeypatch):
    client = client_of(world.settings)
    monkeypatch.setitem(sys.modules, "serving.runner", None)  # the import fails, as with a broken torch
    assert client.post("/generate", json=ask()).status_code == 503
    until(lambda: client.get("/healthz").status_code == 503, "the engine is dead")
    assert health(client)["status"] == "down"
    assert client.post("/generate", json=ask()).status_code == 503


def test_closing_ends_what_runs_and_what_waits(engine, ask):
    pairs = [ticket_of(ask(max_tokens=900, stream=True)), ticket_of(ask(max_tokens=900, temperature=1.0, seed=1))]
    for ticket, _ in pairs:
        engine.submit(ticket)
    engine.start()
    assert isinstance(pairs[0][1].get(timeout=DEADLINE_S), Delta)
    engine.close(timeout_s=DEADLINE_S)
    assert isinstance(pairs[1][1].get(timeout=DEADLINE_S), Unavailable)
    with pytest.raises(Unavailable):
        engine.submit(ticket_of(ask())[0])


def exchanged(engine, body, **options):
    """Run an exchange to its end and return its events; the last may be the exception that ended it."""

    async def run():
        stopping, events = options.pop("stopping", asyncio.Event()), []
        request = GenerateRequest.model_validate(body)
        stream = exchange(engine, request, (), stopping=stopping, **({"deadline_s": DEADLINE_S} | options))
        async with aclosing(stream):
            try:
                events = [event async for event in stream]
            except (Problem, ClientGone) as error:
                events.append(error)
        return events

    return asyncio.run(run())


def test_a_request_that_takes_too_long_is_told_so_and_freed(engine, ask):
    (event,) = exchanged(engine, ask(), deadline_s=0.01)  # the engine was not started: nothing answers
    assert isinstance(event, TimedOut)
    engine.start()
    until(lambda: engine.health().waiting == 0, "the ticket is forgotten")


def test_a_client_that_left_frees_its_row(engine, ask):
    async def gone():
        return None

    (event,) = exchanged(engine, ask(), gone=gone)
    assert isinstance(event, ClientGone)


def test_a_stop_of_the_process_ends_an_exchange(engine, ask):
    stopping = asyncio.Event()
    stopping.set()
    (event,) = exchanged(engine, ask(), stopping=stopping)
    assert isinstance(event, Unavailable)


def answers_together(world, ask, *prompts):
    """Return what becomes of questions that run as one batch."""
    engine = Engine(world.settings)
    pairs = [ticket_of(ask(prompt)) for prompt in prompts]
    for ticket, _ in pairs:
        engine.submit(ticket)
    engine.start()
    answers = [events.get(timeout=DEADLINE_S) for _, events in pairs]
    engine.close(timeout_s=DEADLINE_S)
    return answers


def test_a_batch_that_fails_is_run_row_by_row(world, ask, monkeypatch):
    """One poisoned row must not take its neighbours down: the batch is split, and only the bad row is refused."""
    from serving import generation

    plain = generation.generate

    def fragile(base, rows, answers):
        if any("poison" in row.ticket.request.messages[0].text for row in rows):
            raise RuntimeError("as a kernel would")
        return plain(base, rows, answers)

    monkeypatch.setattr(generation, "generate", fragile)
    one, bad, two = answers_together(world, ask, "one", "poison", "two")
    assert isinstance(one, Generated)
    assert isinstance(two, Generated)
    assert isinstance(bad, Problem)
    assert bad.status == 500


def test_a_prompt_that_breaks_the_processor_is_refused_alone(world, ask, monkeypatch):
    from serving import generation

    plain = generation.prepare

    def fragile(ticket, base):
        if "poison" in ticket.request.messages[0].text:
            raise ValueError("as a template would")
        return plain(ticket, base)

    monkeypatch.setattr(generation, "prepare", fragile)
    one, bad, two = answers_together(world, ask, "one", "poison", "two")
    assert (type(one), type(two), bad.status) == (Generated, Generated, 500)


def test_a_ticket_finishes_only_once(ask):
    ticket, events = ticket_of(ask())
    ticket.finish(Unavailable("first"))
    ticket.finish(Unavailable("second"))
    assert events.get().detail == "first"
    assert events.empty()


def test_the_process_reaches_no_torch_before_the_first_request():
    code = (
        "import sys, serving.main; print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
