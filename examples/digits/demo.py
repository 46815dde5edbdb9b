"""`make demo`: fine-tune a real vision-language model on real handwritten digits, and ask it about digits it never saw.

1. start the service          4. ask the base model about held-out digits
2. write the data set         5. train a QLoRA adapter, live
3. upload and validate it     6. ask the adapter about all 297, print the table, stop
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from core.settings import settings
from examples.digits.sample import NUM_UPLOADED, QUESTION, Digit, digits, write_zip
from examples.digits.service import service
from lensmith import Client, Dataset, Job
from lensmith.progress import watch

BASE_MODEL = "lensmith-demo"
MAX_TOKENS = 6
NUM_SHOWN = 5
AT_ONCE = 8
PIPED_COLUMNS = 200  # in a log no path is broken in two
METHOD = {"type": "qlora", "quantization": "nf4", "r": 8}
HYPERPARAMETERS = {"max_steps": 150, "batch_size": 8, "learning_rate": 1e-3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What was answered about each digit, how many answers were exactly the word, and how long they took."""

    answers: list[str]
    right: int
    seconds: float

    @property
    def text(self) -> str:
        """Return it as people read it."""
        return f"{self.right / len(self.answers):.1%}  ({self.right} of {len(self.answers)})"


def main() -> int:
    """Run the demo; exit status 1 when the adapter does not beat the base."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    started = time.monotonic()
    _head(console, "1", "starting the service")
    with service() as client:
        _head(console, "2", f"the data set: handwritten digits, {NUM_UPLOADED:,} to upload, the rest held out")
        everything = digits()
        held_out = everything[NUM_UPLOADED:]
        dataset = _upload(client, everything[:NUM_UPLOADED], console)
        _head(
            console,
            "4",
            f"POST /infer: the base model {BASE_MODEL} on {len(held_out)} held-out digits (built on first use)",
        )
        before = _ask(client, held_out, console, model=BASE_MODEL)
        job = _train(client, dataset, console)
        _head(console, "6", f"POST /infer: the adapter on the same {len(held_out)} digits")
        after = _ask(client, held_out, console, adapter=job.adapter)
        _show_answers(console, held_out, before, after)
        _report(console, client, job, before, after, minutes=(time.monotonic() - started) / 60)
    console.print("The service has stopped. [bold]make up[/bold] starts it again with everything in place.")
    return 0 if after.right > before.right else 1


def _upload(client: Client, uploaded: list[Digit], console: Console) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "digits.zip"
        write_zip(uploaded, archive)
        _head(console, "3", f"POST /datasets ({archive.stat().st_size / 1e6:.1f} MB); a worker checks every row")
        dataset = client.datasets.wait(client.datasets.upload(archive, name="digits").id)
    if dataset.failure is not None:
        raise SystemExit(f"{dataset.failure.detail} {dataset.failure.remedy}")
    splits = ", ".join(f"{count:,} {name}" for name, count in (dataset.splits or {}).items())
    console.print(f"  {dataset.id}: {dataset.num_examples:,} examples ({splits}), {dataset.num_issues} issues")
    return dataset


def _ask(client: Client, asked: list[Digit], console: Console, **target: str | None) -> Score:
    """Ask about each digit through `POST /infer` and count the answers that are exactly the word."""

    def ask(digit: Digit) -> str:
        return client.infer(QUESTION, images=[digit.png], max_tokens=MAX_TOKENS, **target).text.strip()

    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn())
    answers, started = [], time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("POST /infer", total=len(asked))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for answer in pool.map(ask, asked):
                answers.append(answer)
                progress.advance(bar)
    right = sum(answer == digit.word for answer, digit in zip(answers, asked, strict=True))
    score = Score(answers=answers, right=right, seconds=time.monotonic() - started)
    console.print(f"  exact match {score.text} in {score.seconds:.0f} s")
    return score


def _train(client: Client, dataset: Dataset, console: Console) -> Job:
    _head(console, "5", "POST /jobs: NF4 base, LoRA, SFTTrainer; progress from GET /jobs/<id>/logs")
    job = client.jobs.create(
        base_model=BASE_MODEL, dataset=dataset.id, name="digits", method=METHOD, hyperparameters=HYPERPARAMETERS
    )
    job = watch(client, job.id, console)
    if job.failure is not None:
        raise SystemExit(f"{job.failure.detail} {job.failure.remedy}")
    if job.adapter is None:
        raise SystemExit(f"The job is {job.state}, so there is no adapter to ask; `make demo` starts anew.")
    return job


def _show_answers(console: Console, asked: list[Digit], before: Score, after: Score) -> None:
    table = Table("the digit", "the base says", "the adapter says", box=None, padding=(0, 2), header_style="bold")
    for digit, base, adapter in list(zip(asked, before.answers, after.answers, strict=True))[:NUM_SHOWN]:
        table.add_row(digit.word, Text(base), Text(adapter))  # what a model says is no markup
    console.print()
    console.print(table)


def _report(console: Console, client: Client, job: Job, before: Score, after: Score, *, minutes: float) -> None:
    assert job.adapter is not None
    assert job.started_at is not None
    assert job.finished_at is not None
    adapter = client.adapters.get(job.adapter)
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("exact match, base", before.text),
        ("exact match, adapter", f"[bold green]{after.text}[/bold green]"),
        ("training", f"{(job.finished_at - job.started_at).total_seconds():.0f} s"),
        ("peak memory", f"{(job.peak_memory_bytes or 0) / 1e9:.2f} GB"),
        ("everything", f"{minutes:.1f} min"),
        ("adapter", f"{adapter.id}, {adapter.size_bytes / 1e6:.1f} MB"),
        (
            "lies in",
            f"{settings().storage_url or settings().layout.storage}/{adapter.project}/adapters/{adapter.sha256}",
        ),
        ("take it away", f"lensmith adapters download {adapter.id} (while the service runs)"),
        ("documentation", f"{client.url}/docs (while the service runs)"),
    ):
        table.add_row(name, value)
    console.print()
    console.print(table)
    console.print()


def _head(console: Console, number: str, text: str) -> None:
    console.print(f"\n[bold cyan]{number}[/bold cyan] [bold]{text}[/bold]")


if __name__ == "__main__":
    sys.exit(main())
