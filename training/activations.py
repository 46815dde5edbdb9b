"""What one pass keeps for its gradient, exactly: the activations of the text model, token by token. Torch-free.

The layers of a Llama are walked as autograd does: a tensor is kept where a gradient will flow, and LoRA keeps the input of
each layer that it adapts. Tests hold the sum against what real graphs keep (`torch.autograd.graph.saved_tensors_hooks`).
Sources: transformers 5.23 (`models.llama.modeling_llama`), PEFT 0.21 (`tuners.lora.layer`), torch 2.14 (autograd's formulas).
How the base is quantized changes nothing of it: its weights have no gradient, so no input of theirs is kept for their sake.

Letters in the comments: h hidden width, i width of the MLP, k width of keys and values.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vlm.geometry import TextShape
from vlm.precision import Precision

FLOAT_BYTES = 4
HEAD_TOKENS = 1024  # of logits in memory at once: 0.2 GB in float32 for 49 k tokens of vocabulary
_ATTENTION = ("q_proj", "k_proj", "v_proj")
_MLP = ("gate_proj", "up_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What decides which tensors a pass keeps.

    Attributes:
        targets: The linear layers of the text model that LoRA adapts, in every layer.
        r: Rank of LoRA.
        has_dropout: Whether LoRA's inputs are dropped at random: each adapted layer then keeps its own, and the mask.
        precision: What is computed in; sums and norms stay in fp32.
    """

    targets: Collection[str]
    r: int
    has_dropout: bool
    precision: Precision

    @property
    def item_bytes(self) -> int:
        """Return the bytes of a number that is computed with."""
        return FLOAT_BYTES if self.precision == "fp32" else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a pass keeps: bytes for each of its tokens, and bytes whatever its size (LoRA's weights in 16 bits)."""

    per_token: int
    per_pass: int

    def bytes(self, num_tokens: int) -> int:
        """Return the bytes of a pass of so many tokens."""
        return num_tokens * self.per_token + self.per_pass


def kept(shape: TextShape, graph: Graph) -> Kept:
    """Return what all layers keep together, without gradient checkpointing."""
    layer = _Layer(shape, graph, has_gradient=False)
    per_token = sum(sum(layer.kept()) for _ in range(shape.layers))
    if layer.has_gradient:
        rotary = 2 * (shape.hidden // shape.heads) * graph.item_bytes  # cosine and sine, shared by all layers
        per_token += _norm(shape) + rotary  # the last norm
    return Kept(per_token=per_token, per_pass=layer.cast_bytes)


def kept_of_layer(shape: TextShape, graph: Graph) -> Kept:
    """Return what one layer in the middle keeps: with checkpointing, of one layer at a time."""
    layer = _Layer(shape, graph, has_gradient=True)
    return Kept(per_token=sum(layer.kept()), per_pass=layer.cast_bytes)


def logits_bytes(shape: TextShape, num_labelled: int) -> int:
    """Return the bytes that the head keeps: the log-probabilities of the labelled tokens in fp32."""
    return num_labelled * shape.vocabulary * FLOAT_BYTES


def _norm(shape: TextShape) -> int:
    """Return what a norm keeps, in fp32 always: its input and the inverse of its size."""
    return (shape.hidden + 1) * FLOAT_BYTES


class _Layer:
    """A walk through layers, one after the other: `has_gradient` tells of the tensor where it stands."""

    def __init__(self, shape: TextShape, graph: Graph, *, has_gradient: bool) -> None:
        self._shape = shape
        self._graph = graph
        self._keys = shape.kv_heads * (shape.hidden // shape.heads)
        self.has_gradient = has_gradient
        self.cast_bytes = 0

    def kept(self) -> Iterator[int]:
        """Yield the bytes of each group of tensors that a token keeps in one layer."""
        shape, size = self._shape, self._graph.item_bytes
        yield from self._norm()
        yield from self._adapted(_ATTENTION, shape.hidden)
        if self._flows_through(_ATTENTION):
            yield (
                2 * shape.hidden + 2 * self._keys
            ) * size + shape.heads * FLOAT_BYTES  # q, k, v, what comes out; its sums
        yield from self._adapted(("o_proj",), shape.hidden, is_kept=self.has_gradient)
        self._flows_through(("o_proj",))
        yield from self._norm()
        yield from self._adapted(_MLP, shape.hidden)
        gate, up = (self.has_gradient or name in self._graph.targets for name in _MLP)
        yield (2 * gate + up) * shape.intermediate * size  # SiLU's input and the other factor; SiLU's output
        self.has_gradient = gate or up
        yield from self._adapted(("down_proj",), shape.intermediate)
        self._flows_through(("down_proj",))

    def _flows_through(self, names: Collection[str]) -> bool:
        """Note, and tell, whether a gradient flows behind these layers."""
        self.has_gradient = self.has_gradient or any(name in self._graph.targets for name in names)
        return self.has_gradient

    def _norm(self) -> Iterator[int]:
        if self.has_gradient:
            yield _norm(self._shape)

    def _adapted(self, names: Collection[str], width: int, *, is_kept: bool = False) -> Iterator[int]:
        """Yield what LoRA keeps of layers with one input. In fp32 they share it, also with who keeps it anyway."""
        graph = self._graph
        adapted = sum(name in graph.targets for name in names)
        copies = adapted
        if graph.precision == "fp32" and not graph.has_dropout:
            copies = 0 if is_kept else min(adapted, 1)
        yield (copies * width + adapted * graph.r) * graph.item_bytes
        if graph.precision != "fp32":  # A is kept for the gradient of its input, B for that of A
            widths = [width * self.has_gradient + self._out(name) for name in names if name in graph.targets]
            self.cast_bytes += sum(widths) * graph.r * graph.item_bytes
        if graph.has_dropout and self.has_gradient:
            yield adapted * width * FLOAT_BYTES  # the masks

    def _out(self, name: str) -> int:
        if name in ("k_proj", "v_proj"):
            return self._keys
        return self._shape.intermediate if name in _MLP else self._shape.hidden
