"""What a run holds throughout a phase, in bytes by part: weights, adapter, optimizer, features, libraries. Torch-free."""

from training.activations import FLOAT_BYTES
from training.calibration import Calibration
from training.planned_run import Parts, PlannedRun
from training.weights import Stored, adapter_shapes, base_bytes, num_trained, optimizer_bytes

_CHECKPOINTS = 2  # that a job keeps; each has the adapter and the optimizer's state
_PAGES_BYTES = 64 * 1024  # that the kernel maps around a page of a file that is read


class Held:
    """The parts of a run that stay."""

    def __init__(self, run: PlannedRun, calibration: Calibration) -> None:
        self._run = run
        self._calibration = calibration
        stored = Stored(
            quantization=run.method.resolved_quantization,
            double=run.method.resolved_double_quantization,
            item_bytes=run.item_bytes,
        )
        self._base = base_bytes(run.modules, stored)
        self._plain = base_bytes(run.modules, Stored(quantization="none", double=False, item_bytes=run.item_bytes))
        shapes = list(adapter_shapes(run.modules, run.scope, run.method))
        self._trained = num_trained(shapes) * FLOAT_BYTES
        self._optimizer = optimizer_bytes(shapes, run.schedule.optimizer)

    def loading(self) -> Parts:
        """Return what is held when the base is loaded."""
        return self._libraries("loading") | self._weights(read=frozenset()) | self._cast()

    def preparing(self) -> Parts:
        """Return what is held while images are looked at before the first step."""
        looks = bool(self._run.is_cached and self._run.images)
        read = frozenset({"vision", "connector"} if looks else ())
        libraries = self._libraries("preparing" if looks else "loading")
        return libraries | self._weights(read=read) | {"adapter": self._trained}

    def training(self) -> Parts:
        """Return what is held during a step."""
        return self.evaluating() | {"gradients": self._trained}

    def evaluating(self) -> Parts:
        """Return what is held during validation."""
        run = self._run
        parts = {"adapter": self._trained, "optimizer": self._optimizer}
        parts |= self._libraries("training") | self._kernels()
        read = {"head", "text", "embedding"} | ({"vision", "connector"} if run.images else set())
        weights = self._weights(read=frozenset(read))
        if run.is_cached and run.device == "cpu":  # mapped from their files; a GPU gets those of a pass only
            parts["features"] = self._features()
        elif run.is_cached:
            weights |= {"base.vision": 0} if run.method.train_connector else {"base.vision": 0, "base.connector": 0}
        return parts | weights

    def disk(self) -> Parts:
        """Return what a run leaves on the disk: its images' features in the cache, the checkpoints that are kept."""
        features = self._features() if self._run.is_cached else 0
        return {"features": features, "checkpoints": _CHECKPOINTS * (self._trained + self._optimizer)}

    def host(self) -> Parts:
        """Return what a run on a GPU holds in the machine's own memory; on a CPU that is what the phases tell.

        Weights and features are read through pages of their files, which the system can take back.
        """
        if self._run.device == "cpu":
            return {}
        return {
            "process": self._calibration.process + max(self._calibration.libraries.values()),
            "files of the base": self._published(),
            "files of features": self._features() if self._run.is_cached else 0,
        }

    def _libraries(self, phase: str) -> Parts:
        return {"libraries": self._calibration.libraries[phase]} if self._run.device == "cpu" else {}

    def _kernels(self) -> Parts:
        """Return what oneDNN compiles for a CPU: anew for each number of tokens."""
        if self._run.device != "cpu":
            return {}
        num_shapes = min(self._run.num_shapes, self._calibration.kernel_shapes)
        return {"kernels": num_shapes * self._calibration.kernels_per_shape}

    def _weights(self, *, read: frozenset[str]) -> Parts:
        """Return the base by part, as far as it is in memory.

        On a CPU, weights that are computed with as they lie in the file are mapped from it: a page comes into memory when
        it is first read, and what was read to quantize the rest stays as long as anything is mapped.

        Args:
            read: The parts that were computed with by then.
        """
        run = self._run
        parts: dict[str, int] = dict(self._base.items())
        if run.device == "cpu" and run.schedule.precision == run.geometry.precision:
            is_quantized = run.method.resolved_quantization != "none"
            parts = {part: size if part in read else 0 for part, size in parts.items()}
            if is_quantized:
                parts["text"] = self._base["text"]
                parts["text, as published"] = self._plain["text"]
            if "embedding" in read and run.distinct_tokens is not None:
                pages = run.distinct_tokens * max(_PAGES_BYTES, run.geometry.text.hidden * run.item_bytes)
                parts["embedding"] = min(parts["embedding"], pages)
        return {f"base.{part}": size for part, size in parts.items()}

    def _cast(self) -> Parts:
        """Return the pages of the file, where all of it is read to be held in another precision."""
        run = self._run
        if run.device != "cpu" or run.schedule.precision == run.geometry.precision:
            return {}
        return {"base, as published": self._published()}

    def _published(self) -> int:
        """Return the weights as they lie in their files."""
        item_bytes = FLOAT_BYTES if self._run.geometry.precision == "fp32" else 2
        published = Stored(quantization="none", double=False, item_bytes=item_bytes)
        return sum(base_bytes(self._run.modules, published).values())

    def _features(self) -> int:
        """Return what is kept of all images: what the connector makes of them, or takes where it is trained."""
        geometry, tiles = self._run.geometry, self._run.num_tiles
        if self._run.method.train_connector:
            return tiles * geometry.vision.patches * geometry.vision.hidden * self._run.item_bytes
        return tiles * geometry.tokens_per_tile * geometry.text.hidden * self._run.item_bytes
