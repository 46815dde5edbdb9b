"""The rounds: keep two jobs in flight, hurt something, check what ended; at the end check what is left."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ops.migrate import upgrade
from tests.integration.conftest import colours
from tests.soak import moments
from tests.soak.checks import Outcome, check_job, outcome_of
from tests.soak.faults import Fault, NothingRuns, Scene, deck
from tests.soak.left import check_left
from tests.soak.load import VARIANTS, Load
from tests.soak.servers import Servers, until
from tests.soak.watch import Watch

IN_FLIGHT = 2
END_S = 240.0


class Soak:
    """One soak over one kind of database. The same seed draws the same faults and moments; the machine has its own pace."""

    def __init__(self, folder: Path, *, kind: str, seed: int) -> None:
        self.seed = seed
        self.servers = Servers(folder, kind=kind)
        self.load = Load(self.servers)
        self.watch = Watch(self.servers.settings.data_dir)
        self.counts: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.resumed: Counter[str] = Counter()
        self._journal = folder / "journal.txt"
        self._began = time.monotonic()
        self._checked = 0
        self._expected: list[Outcome] = []
        decks = (deck(self.servers, number, seed=seed) for number in itertools.count())
        self._faults: Iterator[Fault] = itertools.chain.from_iterable(decks)

    def run(self, rounds: int) -> str:
        """Run the rounds and return what happened in some sentences; raise `AssertionError` with the journal."""
        try:
            upgrade(self.servers.database)
            self.servers.start()
            self._make_references()
            with self.watch:
                for number in range(1, rounds + 1):
                    self._round(number)
                self._end()
        except BaseException as error:
            again = f"python -m tests.soak --database {self.servers.kind} --rounds {rounds} --seed {self.seed}"
            raise AssertionError(f"{error}\n{self._journal.read_text()}again: {again}") from error
        finally:
            stubborn = self.servers.stop()
            self.load.close()
        assert not stubborn, f"did not leave by themselves: {stubborn}"
        assert not self.servers.leftovers(), f"still running: {self.servers.leftovers()}"
        return self._story(rounds)

    def _make_references(self) -> None:
        """Run each variant once, undisturbed and side by side."""
        self._journal.write_text("")
        self.load.upload(colours(26))
        jobs = [self.load.submit(variant) for variant in range(len(VARIANTS))]
        until(lambda: not self.load.in_flight(), what="undisturbed runs", within_s=END_S)
        for job in jobs:
            assert job.ended == "succeeded", (job.ended, job.error)
            assert job.id is not None
            self._expected.append(outcome_of(self.servers, job.id))
        self._check_ended()
        self._say("references are made")

    def _round(self, number: int) -> None:
        dice = random.Random(f"{self.seed}-{number}")
        fault = next(self._faults)
        moment, pause_s = moments.draw(dice)
        variants = [dice.randrange(len(VARIANTS)) for _ in range(IN_FLIGHT)]
        while len(self.load.in_flight()) < IN_FLIGHT:
            self.load.submit(variants.pop())
        moments.wait_for(self.servers, moment)
        time.sleep(pause_s)
        doings = sorted(moments.doings(self.servers).values())
        self.counts[fault.__name__] += 1
        self.met.update(set(doings))

        def say(what: str) -> None:
            self._say(f"round {number}: {what} [{', '.join(doings)}]")

        try:
            fault(Scene(servers=self.servers, load=self.load, dice=dice, say=say))
        except NothingRuns:
            say(f"every job has ended; {fault.__name__} has nothing to hurt")
        self.watch.check()
        self._check_ended()

    def _check_ended(self) -> None:
        """Check the jobs that ended since the last look."""
        for job in self.load.ended_from(self._checked):
            until(self.servers.answers, what="the API", within_s=60)
            seen = check_job(self.servers, self.load, job, self._expected[job.variant])
            self._checked += 1
            self.resumed["attempts"] += len(seen.attempts)
            self.resumed["resumed"] += sum(each.resumed_step is not None for each in seen.attempts)
            self._say(f"{job.id} is as it should be ({len(seen.attempts)} attempts, {job.reconnects} reconnects)")

    def _end(self) -> None:
        self._say("no more faults")
        until(lambda: not self.load.in_flight(), what=f"the end of {self._open()}", within_s=END_S)
        self._check_ended()
        assert self._checked == len(self.load.jobs)
        self.watch.check()
        self._say(check_left(self.servers, self.load))

    def _open(self) -> list[str | None]:
        return [job.id for job in self.load.in_flight()]

    def _story(self, rounds: int) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        met = ", ".join(f"{count} {name}" for name, count in sorted(self.met.items()))
        reconnects = sum(job.reconnects for job in self.load.jobs)
        return (
            f"{self.servers.kind}, seed {self.seed}: {rounds} rounds in {time.monotonic() - self._began:.0f} s, "
            f"{len(self.load.jobs)} jobs, {self.resumed['attempts']} attempts, of which {self.resumed['resumed']} went on "
            f"from a checkpoint, {reconnects} reconnects ({faults}; met {met})"
        )

    def _say(self, what: str) -> None:
        line = f"{time.monotonic() - self._began:8.1f} s  {what}"
        with self._journal.open("a") as journal:
            journal.write(f"{line}\n")
        print(line, flush=True)
