"""How a log looks on a stream: the same items as SSE or as JSON lines."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.jobs.schemas import read_item
from models.event import Event
from models.states import EventKind, WorkState


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item as JSON, with what the framing and the filter ask for."""

    seq: int
    kind: EventKind
    json: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Framing:
    """How items, silence and the end look on the wire."""

    item: Callable[[Encoded], bytes]
    silence: bytes
    end: Callable[[WorkState], bytes]


SSE = Framing(
    item=lambda item: b"event: %b\ndata: %b\nid: %d\n\n" % (item.kind.value.encode(), item.json, item.seq),
    silence=KEEPALIVE_COMMENT,
    end=lambda state: format_sse_event(event="end", data_str=json.dumps({"state": state})),
)
NDJSON = Framing(item=lambda item: item.json + b"\n", silence=b"\n", end=lambda _state: b"")


def encode(row: Event) -> Encoded:
    """Return an item as every follower gets it; its JSON is one line."""
    return Encoded(row.seq, row.kind, read_item(row).model_dump_json().encode())
