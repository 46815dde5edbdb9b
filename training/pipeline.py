"""A fine-tuning run as numbered steps: read, settle, load, prepare, encode the images, train, evaluate, publish.

The loss is in `loss.py`, the label mask in `vlm/labels.py`, the loop in `trainer.py`, what goes through the model together
in `batching.py`, where images come from in `vision.py` and `features/`, what `auto` means in `settings.py`.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import set_seed

from core.child import Child
from core.events import Phase, Resolved
from core.process import compact_memory
from training import adapter, checkpoint, checks, device, distributed, export, provenance, trainer
from training.card import Card
from training.checkpoint import Checkpoint, Identity
from training.collator import Collator
from training.distributed import Group
from training.evaluate import Evaluator
from training.features.choose import choose
from training.image_sizes import saving_sentence
from training.peaks import Phases
from training.progress import Progress
from training.reading import read
from training.recovery import Passes
from training.saver import Saver
from training.settling import Settled, settle
from training.spec import TrainingSpec
from training.vision import CachedVision, Vision
from vlm import loading
from vlm.digest import chat_template_digest, processor_digest
from vlm.loading import LoadedBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that there is before the first step."""

    base: LoadedBase
    model: Any
    totals: checks.Totals
    settings: dict[str, Any]
    provenance: dict[str, Any]
    identity: Identity
    resumed: Checkpoint | None


def fine_tune(spec: TrainingSpec, child: Child) -> dict[str, Any]:
    """Make an adapter in the child's staging folder and return the data of the result event.

    Raises:
        WorkFailed: The data, the base model or the numbers do not allow it.
        StopRequested: The supervisor asked to stop.
    """
    with distributed.joined(spec.resources) as group:
        return _fine_tune(spec, child, group)


def _fine_tune(spec: TrainingSpec, child: Child, group: Group) -> dict[str, Any]:
    began = time.perf_counter()
    if spec.hyperparameters.compact_memory is True:
        compact_memory()  # before anything large is loaded; `foresee` may choose it later
    phases = Phases(child)
    resumed = _find_checkpoint(spec, child, group)
    phases.enter(Phase.LOADING)
    _build(spec, child, group)
    phases.begin_again()
    settled = settle(spec, child, read(spec, child, group, resumed), resumed)  # 1, 2
    base = _load(spec, child, settled)  # 3
    phases.enter(Phase.PREPARING)
    set_seed(spec.seed)  # after what a build or a loader may have drawn
    prepared = _prepare(spec, child, settled, base, resumed)  # 4
    with group.first_goes_ahead():
        vision = _encode_images(child, settled, prepared)  # 5
    child = group.agreed(child)
    phases.enter(Phase.TRAINING)
    progress = _train(spec, child, settled, prepared, vision, phases)  # 6
    progress.validate(prepared.model)  # 7
    phases.enter(Phase.PUBLISHING)
    metrics = _publish(spec, child, settled, prepared, progress)  # 8
    phases.leave()
    return {
        "metrics": metrics,
        "peak_memory_bytes": phases.most_bytes,
        "empty_memory_bytes": phases.empty_bytes,
        "peak_memory_by_phase": phases.peaks,
        "duration_s": time.perf_counter() - began,
        "base_revision": base.revision,
        "supervised_tokens_ratio": prepared.totals.supervised_ratio,
    }


def _build(spec: TrainingSpec, child: Child, group: Group) -> None:
    """Build a base that no hub has; that happens once, and what it holds is not the run's."""
    with group.first_goes_ahead():
        if not loading.is_built(spec.base_model, models_dir=spec.models_dir):
            child.events.log(f"Building {spec.base_model}, once.")
            loading.resolve(spec.base_model, models_dir=spec.models_dir)


def _find_checkpoint(spec: TrainingSpec, child: Child, group: Group) -> Checkpoint | None:
    """Return what the run goes on from; first of all, because it says what `auto` meant when the run began."""
    if spec.resume_from is None or group.is_sharded:
        return None
    return checkpoint.find(spec.resume_from, events=child.events)


def _load(spec: TrainingSpec, child: Child, settled: Settled) -> LoadedBase:
    """Step 3: load the weights, quantized and cutting images as it was settled."""
    read, recipe = settled.read, settled.recipe
    base = loading.load(
        read.resolved,
        processor=settled.measured.encoder.processor,
        quantization=recipe.method.resolved_quantization,
        double_quantization=recipe.method.resolved_double_quantization,
        dtype=loading.DTYPES[read.precision],
        spread=spec.resources.parallelism == "model",
        shardable=read.group.is_sharded,
    )
    child.check_stop()
    return base


def _prepare(
    spec: TrainingSpec, child: Child, settled: Settled, base: LoadedBase, resumed: Checkpoint | None
) -> Prepared:
    """Step 4: wrap the base, and say what was settled."""
    read, schedule, measured = settled.read, settled.recipe.schedule, settled.measured
    totals = checks.Totals.of(read.train, measured.train, measured.encoder)
    model = adapter.wrap(base, settled.recipe.method, name=read.name)
    image = base.family.image_settings(base.processor)
    document = {
        "hyperparameters": schedule.document(),
        "method": adapter.document(settled.recipe.method, model),
        "image": image,
        "data": totals.document(),
    }
    origin = provenance.collect(
        spec,
        base_model={"id": spec.base_model, "name": read.name, "revision": base.revision},
        processor_digest=processor_digest(base.processor),
        chat_template_digest=chat_template_digest(base.processor),
        device=device.describe(),
    )
    child.events.emit(Resolved(settings=document, provenance=origin))
    child.events.log(totals.sentence(context_tokens=settled.limits.context_tokens))
    saving = saving_sentence(
        read.train, measured.encoder, tokens=totals.tokens, image=image, asked=settled.recipe.image
    )
    if saving is not None:
        child.events.log(saving)
    child.events.log(schedule.sentence())
    identity = Identity.of(document, origin)
    if resumed is not None:
        checkpoint.check(resumed, identity, versions=origin["versions"], events=child.events)
    return Prepared(
        base=base,
        model=model,
        totals=totals,
        settings=document,
        provenance=origin,
        identity=identity,
        resumed=resumed,
    )


def _encode_images(child: Child, settled: Settled, prepared: Prepared) -> Vision:
    """Step 5: choose where images come from; with the feature cache every image is looked at here, once."""
    schedule, measured = settled.recipe.schedule, settled.measured
    if not schedule.feature_cache:
        reason = settled.request.refusal or "hyperparameters.feature_cache is false"
        child.events.log(f"The feature cache is off: {reason}.")
    vision = choose(
        settled.request,
        prepared.base,
        measured.encoder,
        wants_cache=schedule.feature_cache,
        precision=schedule.precision,
        tokens=measured.images,
        child=child,
    )
    if (
        schedule.feature_cache and measured.images and not isinstance(vision, CachedVision)
    ):  # it was to be, and had no room
        settled = prepared.settings["hyperparameters"] | {"feature_cache": False}
        document = prepared.settings | {"hyperparameters": settled}
        child.events.emit(Resolved(settings=document, provenance=prepared.provenance))
    return vision


def _train(
    spec: TrainingSpec,
    child: Child,
    settled: Settled,
    prepared: Prepared,
    vision: Vision,
    phases: Phases,
) -> Progress:
    """Step 6: run the loop; it emits metrics, saves checkpoints, and validates after each epoch but the last."""
    read, schedule, measured = settled.read, settled.recipe.schedule, settled.measured
    processor = prepared.base.processor
    collate = partial(
        Collator,
        encoder=measured.encoder,
        vision=vision,
        pad_token_id=processor.tokenizer.pad_token_id,
        device=prepared.base.model.device,
    )
    passes = Passes(
        schedule.budget,
        child.events,
        checkpoints=schedule.gradient_checkpointing is not False,
        limit=spec.pass_limit,
    )
    evaluator = None
    if read.validation:
        evaluator = Evaluator(
            collator=collate(read.validation),
            lengths=[measure.tokens for measure in measured.validation],
            passes=passes,
            precision=schedule.precision,
            group=read.group,
        )
    progress = Progress(child, schedule, evaluator, phases)
    saver = Saver(
        child,
        schedule,
        progress,
        identity=prepared.identity,
        versions=prepared.provenance["versions"],
        resumed=prepared.resumed,
        is_sharded=read.group.is_sharded,
    )
    loop = trainer.build(
        prepared.model,
        processor=processor,
        steps=trainer.Steps(
            collator=collate(read.train),
            measures=measured.train,
            passes=passes,
            check_stop=child.check_stop,
            group=read.group,
        ),
        schedule=schedule,
        seed=spec.seed,
        callbacks=[progress, saver],
        output_dir=child.staging,
    )
    saver.train(loop)
    return progress


def _publish(
    spec: TrainingSpec, child: Child, settled: Settled, prepared: Prepared, progress: Progress
) -> dict[str, float | int | None]:
    """Step 8: write the adapter, read it back, and return the final metrics."""
    metrics: dict[str, float | int | None] = {
        "loss": progress.loss,
        **(progress.evaluation.document() if progress.evaluation else {}),
        "trained_steps": progress.step,
        "trained_examples": settled.recipe.schedule.num_trained(progress.step),
    }
    read, base = settled.read, prepared.base
    weights = read.group.trained_weights(prepared.model)
    if not read.group.is_first:
        return metrics
    card = Card(
        name=spec.adapter_name,
        base_model=read.name,
        base_is_on_hub=read.is_on_hub,
        revision=base.revision,
        licence=read.licence,
        metrics=metrics,
        settings=prepared.settings,
        provenance=prepared.provenance,
    )
    folder = child.staging / export.ADAPTER_FOLDER
    origin = prepared.provenance | {"settings": prepared.settings, "metrics": metrics}
    export.write(prepared.model, folder, weights=weights, processor=base.processor, card=card, provenance=origin)
    verified = export.verify(folder, prepared.model, family=base.family, method=settled.recipe.method)
    if verified.is_noop:
        child.events.log("The adapter changes nothing: every update is zero. Train longer or faster.", level="warning")
    return metrics
