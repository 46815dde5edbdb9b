"""What is asked of a model, and what it answers."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.text import Plain
from vlm.conversation import ImagePart, Message, TextPart

MAX_IMAGES = 16


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageUrl(_Body):
    """A picture inside of a message, as OpenAI writes it; only data: URLs are taken."""

    url: str


class ImageUrlPart(_Body):
    """A picture at this place of the conversation."""

    type: Literal["image_url"]
    image_url: ImageUrl


Content = Annotated[TextPart | ImagePart | ImageUrlPart, Field(discriminator="type")]


class ChatMessage(_Body):
    """One turn: plain text, or parts. `{"type": "image"}` is the next of `images`."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Content]


class InferRequest(_Body):
    """A question. Exactly one of `adapter` and `model`, exactly one of `prompt` and `messages`."""

    adapter: Plain | None = Field(None, max_length=64, description="id of an adapter; its base model is used")
    model: Plain | None = Field(None, max_length=500, description="a base model, without an adapter")
    prompt: str | None = Field(None, max_length=200_000)
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    images: list[str] = Field(default_factory=list, max_length=MAX_IMAGES, description="data: URLs")
    max_tokens: int = Field(128, ge=1, le=2048)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    stop: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list, max_length=4)
    stream: bool = False

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.adapter is None) == (self.model is None):
            raise ValueError("give exactly one of adapter and model.")
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages.")
        return self

    def conversation(self) -> tuple[list[Message], list[str]]:
        """Return the turns with image places, and the data URLs in the order of those places."""
        if self.prompt is not None:
            parts: list[TextPart | ImagePart] = [ImagePart() for _ in self.images]
            return [Message(role="user", content=(*parts, TextPart(text=self.prompt)))], self.images
        given, urls, turns = iter(self.images), [], []
        for message in self.messages or []:
            content: list[TextPart | ImagePart] = []
            for part in [TextPart(text=message.content)] if isinstance(message.content, str) else message.content:
                if isinstance(part, ImageUrlPart):
                    urls.append(part.image_url.url)
                elif isinstance(part, ImagePart):
                    urls.append(next(given, ""))
                content.append(ImagePart() if isinstance(part, ImageUrlPart) else part)
            turns.append(Message(role=message.role, content=tuple(content)))
        return turns, [*urls, *given]


class Usage(BaseModel):
    """What the answer cost, in tokens."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int


class InferAnswer(BaseModel):
    """An answer, and what made it."""

    id: str
    model: str
    adapter: str | None
    text: str
    usage: Usage
    timings: dict[str, Any] = Field(description="seconds by part")
    finish_reason: Literal["stop", "length"]
    base_revision: str | None
    adapter_sha256: str | None
