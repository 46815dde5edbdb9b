"""From a question to the request that serving takes: ids are resolved here, because serving sees no rows."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.adapters.routes import find_adapter
from api.infer.schemas import InferAnswer, InferRequest
from api.services import Services
from api.serving import unreadable
from core.errors import Conflict, NotFound
from core.ids import Prefix, new_id
from models.states import AdapterState
from vlm import catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What answers: a base model, perhaps with an adapter."""

    base: str
    adapter_id: str | None
    reference: dict[str, str] | None


def resolve(services: Services, body: InferRequest, *, project: str) -> Target:
    """Find what is asked for, or refuse with 404 (unknown) or 409 (not ready)."""
    if body.adapter is None:
        assert body.model is not None
        check_base(body.model)
        return Target(base=body.model, adapter_id=None, reference=None)
    adapter = find_adapter(services, body.adapter, project)
    if adapter.state is not AdapterState.READY:
        raise Conflict(f"The adapter {adapter.id} is {adapter.state}; only a ready one can answer.")
    reference = {"key": adapter.prefix, "sha256": adapter.sha256}
    return Target(base=adapter.base_model, adapter_id=adapter.id, reference=reference)


def check_base(name: str) -> None:
    """Refuse a base model that there is not."""
    if not catalog.is_known(name):
        known = ", ".join(entry.id for entry in catalog.CATALOG)
        raise NotFound(f"There is no base model {name!r}. Known are {known}, Hub ids and local folders.")


def generate_body(body: InferRequest, target: Target) -> dict[str, Any]:
    """Return what `POST /generate` of serving takes."""
    asked = body.conversation()
    return {
        "base": target.base,
        "adapter": target.reference,
        "messages": [message.model_dump(mode="json") for message in asked.messages],
        "images": asked.urls,
        "sampling": body.model_dump(include={"max_tokens", "temperature", "top_p", "seed", "stop"}),
        "stream": body.stream,
    }


def answer(target: Target, generated: object) -> InferAnswer:
    """Return serving's answer as the API shows it; raises `Unavailable` when it is none."""
    if not isinstance(generated, dict):
        raise unreadable()
    own = {"id": new_id(Prefix.REQUEST), "model": target.base, "adapter": target.adapter_id}
    try:
        return InferAnswer.model_validate({**generated, **own})
    except ValidationError as error:
        raise unreadable() from error
