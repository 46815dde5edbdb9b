"""One answer while it grows: when it ends, which text it has, and which pieces may be streamed. Torch-free."""

from collections.abc import Callable, Collection, Sequence

from serving.wire import FinishReason, Sampling

_UNFINISHED = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


class Answer:
    """The generated tokens of one row."""

    def __init__(
        self,
        *,
        sampling: Sampling,
        end_ids: Collection[int],
        decode: Callable[[Sequence[int]], str],
        emit: Callable[[str], None] | None = None,
    ) -> None:
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.num_emitted = 0
        self._sampling = sampling
        self._end_ids = end_ids
        self._decode = decode
        self._emit = emit
        self._text: str | None = None

    def push(self, token: int) -> bool:
        """Take the next token and tell whether the answer is complete; tokens after that are ignored."""
        if self.finish_reason is not None:
            return True
        self.tokens.append(token)
        if token in self._end_ids:
            self.finish_reason = FinishReason.STOP
        elif len(self.tokens) >= self._sampling.max_tokens:
            self.finish_reason = FinishReason.LENGTH
        if self._sampling.stop:
            self._cut_at_stop_string()
        if self._emit is not None:
            self._stream(self._emit)
        return self.finish_reason is not None

    @property
    def text(self) -> str:
        """Return the text so far, without special tokens, leading blanks and stop strings."""
        return self._decode(self.tokens).lstrip() if self._text is None else self._text

    def _cut_at_stop_string(self) -> None:
        text = self._decode(self.tokens).lstrip()
        places = [place for place in map(text.find, self._sampling.stop) if place >= 0]
        if places:
            self._text = text[: min(places)]
            self.finish_reason = FinishReason.STOP

    def _stream(self, emit: Callable[[str], None]) -> None:
        text = self.text
        ready = text if self.finish_reason is not None else text[: self._num_certain(text)]
        if len(ready) > self.num_emitted:
            emit(ready[self.num_emitted :])
            self.num_emitted = len(ready)

    def _num_certain(self, text: str) -> int:
        """Return how much of the text no later token can change: no half character, no begun stop string."""
        certain = len(text.rstrip(_UNFINISHED))
        for stop in self._sampling.stop:
            for length in range(min(len(stop) - 1, certain), 0, -1):
                if text[:certain].endswith(stop[:length]):
                    certain -= length
                    break
        return certain
