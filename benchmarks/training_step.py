"""One training step with our loss (labelled positions only) against TRL's own: examples/s and peak memory.

Runs alternate, ours, TRL's, ours, TRL's, each in a process of its own; the same base, rows, order and optimizer. The base is
`lensmith-demo` where the service has built it, `tiny` elsewhere (whose vocabulary is small, so the two are closer).
The peak is that of the whole process: loading counts, and varied by 0.6 GB between equal runs, so read each run's.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from core.process import calm_threads
from core.settings import settings
from examples.digits.sample import QUESTION, digits
from vlm.conversation import IMAGES_FOLDER, Example, ImagePart, Message, TextPart

calm_threads()

ARMS = ("ours", "trl", "ours", "trl")
BATCH_SIZE = 8
NUM_STEPS = 5  # the first one warms up and is not counted


def main() -> None:
    """Run every arm twice and print the medians."""
    models_dir = settings().layout.models
    base = "lensmith-demo" if any(models_dir.glob("lensmith-demo*/config.json")) else "tiny"
    print(machine())
    print(f"base {base}, NF4, LoRA r 8, {NUM_STEPS - 1} steps of {BATCH_SIZE} digits per run")
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        where = models_dir if base != "tiny" else Path(folder)
        for arm in ARMS:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training_step", arm, base, str(where)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(done.stderr)
            run = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(arm, []).append(run)
            print(f"  {arm:<5} {run['examples_per_s']:7.2f} examples/s   peak {run['peak_mb']:6,.0f} MB")
    median = {
        (arm, name): statistics.median(run[name] for run in runs) for arm, runs in found.items() for name in runs[0]
    }
    for name in ("examples_per_s", "peak_mb"):
        ours, trl = median["ours", name], median["trl", name]
        print(f"median {name:<15} ours {ours:9,.2f}   trl {trl:9,.2f}   ratio {ours / trl:.2f}")


def machine() -> str:
    """Return what the numbers depend on, in one line."""
    import torch

    info = Path("/proc/cpuinfo")  # Linux; elsewhere the flag is not known
    flag = "with" if info.exists() and "avx512_bf16" in info.read_text() else "without"
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return f"{platform.machine()}, {cores} cores, {threads} threads, {flag} avx512_bf16, torch {torch.__version__}"


def measure(arm: str, base_name: str, models_dir: Path) -> dict[str, float]:
    """Train for a few steps in this process and return its figures."""
    from transformers import TrainerCallback
    from trl import SFTTrainer

    from core.events import Emitter
    from training import adapter, checks, device, trainer
    from training import settings as schedules
    from training.collator import Collator
    from training.encoding import Encoder
    from training.images import ImageFolder
    from training.spec import Hyperparameters, Method
    from vlm import loading
    from vlm.ruler import Limits

    class Clock(TrainerCallback):
        """Notes how long each step took."""

        def __init__(self) -> None:
            self.steps_s: list[float] = []

        def on_step_begin(self, *_: object, **__: object) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            self.steps_s.append(time.perf_counter() - self.began)

    if arm == "trl":
        trainer.Trainer.compute_loss = SFTTrainer.compute_loss  # type: ignore[method-assign]  # the arm is TRL's own
    precision = device.choose_precision("auto", Emitter(os.open(os.devnull, os.O_WRONLY)))
    resolved = loading.resolve(base_name, models_dir=models_dir)
    base = loading.load(resolved, quantization="nf4", dtype=loading.DTYPES[precision])
    with tempfile.TemporaryDirectory() as name:
        examples = write_digits(Path(name))
        encoder = Encoder(base.processor, base.family, ImageFolder(Path(name)))
        totals = checks.check(examples, encoder, Limits.of(base), check_stop=lambda: None)
        asked = Hyperparameters(max_steps=NUM_STEPS, batch_size=BATCH_SIZE)
        schedule = schedules.resolve(
            asked,
            num_examples=len(examples),
            longest_tokens=totals.longest_tokens,
            precision=precision,
            on_gpu=device.has_gpu(),
        )
        model, clock = adapter.wrap(base, Method(), name=base_name), Clock()
        collator = Collator(examples, encoder, pad_token_id=base.processor.tokenizer.pad_token_id)
        trainer.build(
            model,
            processor=base.processor,
            collator=collator,
            schedule=schedule,
            seed=0,
            callbacks=[clock],
            output_dir=Path(name) / "out",
        ).train()
    speed = BATCH_SIZE / statistics.median(clock.steps_s[1:])
    return {"examples_per_s": speed, "peak_mb": device.peak_memory_bytes() / 1e6}


def write_digits(folder: Path) -> list[Example]:
    """Put enough digits for the run into a folder, as a worker does, and return them as examples."""
    (folder / IMAGES_FOLDER).mkdir()
    rows = []
    for number, digit in enumerate(digits()[: NUM_STEPS * BATCH_SIZE]):
        sha256 = hashlib.sha256(digit.png).hexdigest()
        (folder / IMAGES_FOLDER / sha256).write_bytes(digit.png)
        asked = Message(role="user", content=(ImagePart(), TextPart(text=QUESTION)), weight=1)
        said = Message(role="assistant", content=(TextPart(text=digit.word),), weight=1)
        rows.append(Example(row=number + 1, split="train", messages=(asked, said), images=(sha256,)))
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
