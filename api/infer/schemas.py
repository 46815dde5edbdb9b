"""What is asked of a model, and what it answers."""

from dataclasses import dataclass, field
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

    @property
    def parts(self) -> list[TextPart | ImagePart | ImageUrlPart]:
        """Return the content as parts."""
        return [TextPart(text=self.content)] if isinstance(self.content, str) else self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The turns with image places; the data URLs in the order of those places, and where the body has each of them."""

    messages: list[Message] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)


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
        places = sum(isinstance(part, ImagePart) for message in self.messages or [] for part in message.parts)
        if self.messages is not None and places != len(self.images):
            raise ValueError(f'messages have {places} parts of type "image", and images holds {len(self.images)}.')
        return self

    def conversation(self) -> Conversation:
        """Return the question as turns, whichever way it was asked."""
        listed = [f"#/images/{index}" for index in range(len(self.images))]
        if self.prompt is not None:
            parts = (*(ImagePart() for _ in self.images), TextPart(text=self.prompt))
            turn = Message(role="user", content=parts)
            return Conversation(messages=[turn], urls=self.images, pointers=listed)
        made, given = Conversation(), iter(zip(self.images, listed, strict=True))
        for index, message in enumerate(self.messages or []):
            content: list[TextPart | ImagePart] = []
            for number, part in enumerate(message.parts):
                if isinstance(part, TextPart):
                    content.append(part)
                    continue
                own = f"#/messages/{index}/content/{number}/image_url/url"
                url, pointer = (part.image_url.url, own) if isinstance(part, ImageUrlPart) else next(given)
                made.urls.append(url)
                made.pointers.append(pointer)
                content.append(ImagePart())
            made.messages.append(Message(role=message.role, content=tuple(content)))
        return made


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
