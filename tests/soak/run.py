"""The rounds: keep two jobs in flight, hurt something, check what ended; at the end check what is left."""

import random
import time
from collections import Counter
from pathlib import Path

from ops.migrate import upgrade
from tests.integration.conftest import colours
from tests.soak.checks import check_job, check_storage, outcome
from tests.soak.faults import faults_of
from tests.soak.load import VARIANTS, Load
from tests.soak.servers import Servers, until

IN_FLIGHT = 2
END_S = 240.0


class Soak:
    """One soak over one kind of database. The same seed draws the same faults; the machine draws the moments."""

    def __init__(self, folder: Path, *, kind: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.seed = seed
        self.servers = Servers(folder, kind=kind)
        self.load = Load(self.servers)
        self.journal: list[str] = []
        self.counts: Counter[str] = Counter()
        self._began = time.monotonic()
        self._checked = 0
        self._expected: list[tuple[list[dict[str, object]], str]] = []

    def run(self, rounds: int) -> str:
        """Run the rounds and return what happened in a sentence; raise `AssertionError` with the journal."""
        try:
            upgrade(self.servers.database)
            self.servers.start()
            self._make_references()
            for number in range(1, rounds + 1):
                self._round(number)
            self._end()
        except BaseException as error:
            story = "\n".join(self.journal[-60:])
            raise AssertionError(f"seed {self.seed}, {self.servers.kind}: {error}\n{story}") from error
        finally:
            stubborn = self.servers.stop()
            self.load.close()
        assert not stubborn, f"did not leave by themselves: {stubborn}"
        assert not self.servers.leftovers(), f"still running: {self.servers.leftovers()}"
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        reconnects = sum(job.reconnects for job in self.load.jobs)
        return (
            f"{self.servers.kind}, seed {self.seed}: {rounds} rounds in {time.monotonic() - self._began:.0f} s, "
            f"{len(self.load.jobs)} jobs, {reconnects} reconnects ({told})"
        )

    def _make_references(self) -> None:
        """Run each variant once, undisturbed."""
        self.load.upload(colours(26))
        for variant in range(len(VARIANTS)):
            job = self.load.submit(variant)
            until(lambda job=job: job.ended or job.error, what="an undisturbed run", within_s=END_S)
            assert job.ended == "succeeded", (job.ended, job.error)
            assert job.id is not None
            self._expected.append(outcome(self.servers, job.id))
        self._check_ended()
        self._say("references are made")

    def _round(self, number: int) -> None:
        while len(self.load.in_flight()) < IN_FLIGHT:
            self.load.submit(self.dice.randrange(len(VARIANTS)))
        time.sleep(self.dice.uniform(0, 3))
        fault = self.dice.choice(faults_of(self.servers))
        self.counts[fault.__name__] += 1
        fault(self.servers, self.dice, lambda what: self._say(f"round {number}: {what}"))
        self._check_ended()

    def _check_ended(self) -> None:
        """Check the jobs that ended since the last look, in the order of their submission."""
        while self._checked < len(self.load.jobs):
            job = self.load.jobs[self._checked]
            if job.ended is None and job.error is None:
                return
            until(self.servers.answers, what="the API", within_s=60)
            check_job(self.servers, job, self._expected[job.variant])
            self._checked += 1
            self._say(f"{job.id} is as it should be ({job.reconnects} reconnects)")

    def _end(self) -> None:
        self._say("no more faults")
        until(lambda: not self.load.in_flight(), what=f"the end of {self._open()}", within_s=END_S)
        self._check_ended()
        assert self._checked == len(self.load.jobs)
        stray = check_storage(self.servers)
        self._say(f"{len(stray)} objects that no row names: {stray[:3]}")

    def _open(self) -> list[str | None]:
        return [job.id for job in self.load.in_flight()]

    def _say(self, what: str) -> None:
        line = f"{time.monotonic() - self._began:8.1f} s  {what}"
        self.journal.append(line)
        print(line, flush=True)
