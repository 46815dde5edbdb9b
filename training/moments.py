"""The moments of a run at which it may hold the most, each a sum of parts in bytes. Torch-free; `memory.py` chooses.

What a moment needs beside weights and kept activations was read off from real steps, every tensor that lived at their
peak (`tests/unit/training/test_moments.py` does it again). Letters: h hidden width, i width of an MLP, v vocabulary.
"""

from collections.abc import Iterator

from training.activations import FLOAT_BYTES, HEAD_TOKENS, Graph, kept, kept_of_layer
from training.calibration import Calibration
from training.held import Held
from training.passes import Pass, tower_passes
from training.planned_run import Parts, PlannedRun
from vlm.cutting import TILES_PER_PASS

_INT_BYTES = 8
_COLOURS = 3
_LOGITS_BACKWARD, _LOGITS_FORWARD = 3, 2  # copies of the logits at once
_INT8_BYTES = 10.8  # of each weight of the widest layer, inside bitsandbytes' product on a CPU
_DORA_BYTES = 19  # likewise, while DoRA takes the norm of a layer
_QUANTIZING_BYTES = {"nf4": 10.8, "fp4": 10.8, "int8": 5.7, "none": 0}  # likewise, while it is quantized
_MASK_BYTES = 5  # of each pair of tokens: a truth value and a number
COMES_AND_GOES = ("activations", "batch", "logits", "pixels", "vision", "workspace")


class Moments:
    """The moments of each phase of one run, on a CPU or a GPU."""

    def __init__(self, run: PlannedRun, held: Held, calibration: Calibration) -> None:
        self._run = run
        self._calibration = calibration
        self._held = held
        self._text, self._vision = run.geometry.text, run.geometry.vision
        self._size = run.item_bytes
        self._checkpoints = run.schedule.gradient_checkpointing is not False
        self._graph = Graph(
            targets=run.method.target_modules,
            r=run.method.r,
            has_dropout=run.method.dropout > 0,
            precision=run.schedule.precision,
        )

    def loading(self) -> Iterator[Parts]:
        """Yield the end of loading, when the largest layer is quantized."""
        widest = self._text.intermediate * self._text.hidden
        spent = round(_QUANTIZING_BYTES[self._run.method.resolved_quantization] * widest)
        yield self._held.loading() | {"workspace": spent}

    def preparing(self) -> Iterator[Parts]:
        """Yield the end of preparing, and with the feature cache each pass through the tower."""
        still = self._held.preparing()
        yield still
        if self._run.is_cached:
            passes = tower_passes(self._run.images, lambda image: image.tokens)
            for tiles in {sum(image.tiles for image in some) for some in passes}:
                yield self._kept(still | self._tower(tiles))

    def training(self) -> Iterator[Parts]:
        """Yield of each pass: looking at its images, the widest layer, the gradient of the head."""
        still = self._held.training()
        for each in set(self._run.passes):
            batch = {"batch": self._batch(each)} | self._trained_tower(each)
            if self._looks_apart(each):
                yield self._kept(still | self._tower(each.tiles))
            layer = {"activations": self._activations(each), "workspace": self._workspace(each)}
            head = {"activations": self._inputs(each), "logits": self._logits(each, _LOGITS_BACKWARD)}
            yield self._kept(still | batch | layer)
            yield self._kept(still | batch | head)

    def evaluating(self) -> Iterator[Parts]:
        """Yield of each pass: looking at its images, the widest layer, the head."""
        still = self._held.evaluating()
        for each in set(self._run.validation):
            batch = {"batch": self._batch(each)}
            if not self._run.is_cached and each.tiles:
                yield self._kept(still | self._tower(each.tiles))
            yield self._kept(still | batch | {"workspace": self._workspace(each)})
            yield self._kept(still | batch | {"logits": self._logits(each, _LOGITS_FORWARD)})

    def _kept(self, parts: Parts) -> Parts:
        """Add what the allocator keeps of what was freed."""
        if self._run.device != "cpu" or self._run.schedule.compact_memory:
            return parts
        share = self._calibration.kept_share[self._run.method.resolved_quantization]
        kept_bytes = round(share * sum(parts.get(name, 0) for name in COMES_AND_GOES))
        return parts | {"allocator": self._calibration.kept_always + kept_bytes}

    def _tower(self, tiles: int) -> Parts:
        """Return a pass of the frozen tower: pixels of all images, each and joined; activations of a few tiles."""
        vision, size = self._vision, self._size
        pixels = 2 * tiles * vision.side_px**2 * (_COLOURS * FLOAT_BYTES + _INT_BYTES)  # and their masks
        some = min(tiles, TILES_PER_PASS)
        cast = some * vision.side_px**2 * _COLOURS * size
        widest = some * vision.patches * (2 * vision.intermediate + 3 * vision.hidden) * size
        seen = tiles * vision.patches * vision.hidden * size
        return {"pixels": pixels + cast, "vision": widest + seen}

    def _looks_apart(self, each: Pass) -> bool:
        """Tell whether the images of a pass go through a frozen tower before it."""
        return each.tiles > 0 and not self._run.is_cached and not self._run.method.train_vision

    def _trained_tower(self, each: Pass) -> Parts:
        """Return what a tower that is trained keeps for its gradient: inputs of its adapted layers, norms, attention."""
        if not self._run.method.train_vision:
            return {}
        vision, size = self._vision, self._size
        copies = 1 if self._run.schedule.precision == "fp32" else 5  # of the input that LoRA's layers share in fp32
        of_layer = (copies * vision.hidden + vision.intermediate) * size  # LoRA's inputs
        of_layer += 2 * vision.hidden * FLOAT_BYTES + (4 * vision.hidden + vision.intermediate) * size
        layers = of_layer * (1 if self._checkpoints else vision.layers)
        inputs = vision.layers * vision.hidden * size if self._checkpoints else 0
        area = vision.side_px**2
        pixels = each.tiles * area * (_COLOURS * (FLOAT_BYTES + size) + _INT_BYTES)
        return {"vision": each.tiles * vision.patches * (layers + inputs), "pixels": pixels}

    def _activations(self, each: Pass) -> int:
        """Return what a pass keeps when its last layer is at work."""
        if not self._checkpoints:
            return self._inputs(each)
        layer = kept_of_layer(self._text, self._graph).bytes(each.tokens)
        return self._inputs(each) + layer + self._mask(each) + self._dora(each) // self._text.layers

    def _inputs(self, each: Pass) -> int:
        """Return what a pass keeps when the layers are done: of each layer all, or its input."""
        if self._checkpoints:
            return self._text.layers * each.tokens * self._text.hidden * self._size
        layers = kept(self._text, self._graph).bytes(each.tokens)
        return layers + self._text.layers * self._mask(each) + self._dora(each)

    def _dora(self, each: Pass) -> int:
        """Return what DoRA keeps: what each adapted layer gives, and what its update does."""
        if not self._run.method.use_dora:
            return 0
        reaches = self._run.scope.reaches
        rows = sum(module.rows for module in self._run.modules if module.part == "text" and reaches(module.name))
        return 2 * rows * each.tokens * self._size

    def _mask(self, each: Pass) -> int:
        return each.rows * each.row_tokens**2 * _MASK_BYTES if each.is_masked else 0

    def _batch(self, each: Pass) -> int:
        """Return the tokens of a pass, their embeddings and the features of its images."""
        return each.tokens * (3 * _INT_BYTES + 2 * self._text.hidden * self._size)

    def _logits(self, each: Pass, copies: int) -> int:
        return min(each.labelled_tokens, HEAD_TOKENS) * self._text.vocabulary * FLOAT_BYTES * copies

    def _workspace(self, each: Pass) -> int:
        """Return what the widest layer needs at work: forwards, backwards, or with its weights as numbers."""
        method, text = self._run.method, self._text
        narrow, wide = (each.tokens * width * self._size for width in (text.hidden, text.intermediate))
        numel = text.intermediate * text.hidden
        weight = numel * self._size if method.resolved_quantization != "none" else 0
        if self._run.schedule.precision == "fp32":
            most = max(2 * wide, weight + wide)
        else:
            most = max(3 * wide + 5 * narrow, 10 * narrow, weight + 3 * narrow)
        inside = _INT8_BYTES * numel if method.resolved_quantization == "int8" and self._run.device == "cpu" else 0
        return round(most + inside + (_DORA_BYTES * numel if method.use_dora else 0))
