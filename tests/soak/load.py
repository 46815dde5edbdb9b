"""Jobs as a user has them: submitted with a key until they are accepted, followed live until they end."""

import itertools
import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.soak.servers import Servers, until

_BODY = {
    "base_model": "tiny",
    "hyperparameters": {
        "epochs": 8,
        "batch_size": 1,
        "checkpoint_every": 20,
        "learning_rate": 1e-3,
        "precision": "fp32",
    },
}
VARIANTS: tuple[dict[str, Any], ...] = (
    _BODY | {"seed": 5, "method": {"type": "lora", "dropout": 0.2, "r": 4}},
    _BODY | {"seed": 6, "method": {"type": "lora", "use_dora": True, "r": 4, "dropout": 0.1}},
)
_ANSWER_S = 20.0
AWAY_S = 120.0  # longer than any fault keeps the API away


@dataclass
class Followed:
    """A job and what its follower saw of it."""

    variant: int
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    id: str | None = None
    items: list[dict[str, Any]] = field(default_factory=list)
    ended: str | None = None
    error: BaseException | None = None
    reconnects: int = 0
    thread: threading.Thread | None = None

    @property
    def is_in_flight(self) -> bool:
        return self.ended is None and self.error is None


class Load:
    """Submits jobs and follows them, whatever happens to the API."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._http = httpx2.Client(base_url=servers.url, timeout=_ANSWER_S, trust_env=False)
        self.dataset = ""
        self.jobs: list[Followed] = []

    def close(self) -> None:
        self._http.close()

    def upload(self, archive: bytes) -> None:
        """Make the data set that all jobs learn from."""
        made = self._http.post("/datasets", files={"file": ("colours.zip", archive)})
        made.raise_for_status()
        self.dataset = made.json()["id"]
        until(lambda: self._http.get(f"/datasets/{self.dataset}").json()["state"] == "ready", what="the data set")

    def submit(self, variant: int) -> Followed:
        """Make a job and follow it on a thread."""
        job = Followed(variant=variant)
        job.thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        job.thread.start()
        self.jobs.append(job)
        return job

    def in_flight(self) -> list[Followed]:
        return [job for job in self.jobs if job.is_in_flight]

    def submit_again(self, job: Followed) -> str:
        """Send the request of a job once more, as a client does that had no answer; return the id in the answer."""
        return self._accepted(job.key, self._body(job))

    def ask(self, job_id: str, action: str) -> bool:
        """Ask something of a job until there is an answer; False: it is not in a state for that."""
        answer = self._answered("POST", f"/jobs/{job_id}/{action}")
        assert answer.status_code in {200, 409}, f"{action}: {answer.status_code} {answer.text}"
        return bool(answer.is_success)

    def state(self, job_id: str) -> str:
        """Return the state of a job as the API shows it."""
        return str(self._answered("GET", f"/jobs/{job_id}").json()["state"])

    def curve(self, job_id: str) -> list[dict[str, Any]]:
        """Return the curve of a job as the API shows it."""
        points: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = self._answered("GET", f"/jobs/{job_id}/metrics?after={after}&limit=100").json()
            points += [{"step": item["step"]} | item["figures"] for item in page["items"]]
            after = page["next_cursor"]
        return points

    def _run(self, job: Followed) -> None:
        try:
            job.id = self._accepted(job.key, self._body(job))
            assert self.submit_again(job) == job.id, "the same key and body made another job"
            while job.ended is None:
                self._follow(job)
        except BaseException as error:
            job.error = error

    def ended_from(self, number: int) -> list[Followed]:
        """Return the jobs from this one on, in the order of their submission, up to the first that is in flight."""
        return list(itertools.takewhile(lambda job: not job.is_in_flight, self.jobs[number:]))

    def _body(self, job: Followed) -> dict[str, Any]:
        return VARIANTS[job.variant] | {"dataset": self.dataset}

    def _accepted(self, key: str, body: dict[str, Any]) -> str:
        """Submit until there is an answer; which attempt made the job nobody can tell, and nobody needs to."""
        while True:
            answer = self._answered("POST", "/jobs", json=body, headers={"Idempotency-Key": key})
            if answer.status_code == 202:
                return str(answer.json()["id"])
            assert answer.status_code == 409, f"POST /jobs: {answer.status_code} {answer.text}"
            time.sleep(0.2)

    def _answered(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """Ask until the API and its database are there to answer."""
        deadline = time.monotonic() + AWAY_S
        while True:
            try:
                answer = self._http.request(method, path, **request)
            except httpx2.HTTPError as error:
                said = repr(error)
            else:
                if answer.status_code != 503:
                    return answer
                said = answer.text
            assert time.monotonic() < deadline, f"{method} {path}: no answer within {AWAY_S:g} s: {said}"
            time.sleep(0.2)

    def _follow(self, job: Followed) -> None:
        """Read the stream until it breaks; the next one goes on behind the last item."""
        seen = job.items[-1]["seq"] if job.items else 0
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen)}
        try:
            with self._http.stream("GET", f"/jobs/{job.id}/logs", headers=headers) as stream:
                if stream.status_code == 200:
                    _read(stream, job)
                else:
                    assert stream.status_code == 503, f"GET logs: {stream.status_code}"
        except httpx2.HTTPError:
            pass
        if job.ended is None:
            job.reconnects += 1
            time.sleep(0.1)


def _read(stream: httpx2.Response, job: Followed) -> None:
    event = ""
    for line in stream.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event == "end":
            job.ended = json.loads(value)["state"]
            return
        elif name == "data":
            job.items.append(json.loads(value))
