"""`/base-models`."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.services import ServicesDep
from vlm import catalog

router = APIRouter(prefix="/base-models", tags=["base models"])


class BaseModelRead(BaseModel):
    """A base model that we know. A Hub id or a local folder outside of this list is taken as well."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    hub_id: str | None
    family: str
    parameters: int
    image_tokens_per_tile: int | None = Field(description="null: pictures are not cut into tiles")
    image_rule: str = Field(description="how a picture becomes image tokens")
    memory_class: str
    licence: str
    context_tokens: int
    summary: str
    local: bool = Field(description="whether it can be loaded without a network, now")


class BaseModelList(BaseModel):
    """The whole catalogue, on one page."""

    items: list[BaseModelRead]
    next_cursor: str | None


@router.get("")
def list_base_models(services: ServicesDep) -> BaseModelList:
    """List the base models that we know."""
    models_dir = services.settings.layout.models
    items = [
        BaseModelRead.model_validate(
            {name: getattr(entry, name) for name in BaseModelRead.model_fields if name != "local"}
            | {"local": catalog.is_local(entry, models_dir)}
        )
        for entry in catalog.CATALOG
    ]
    return BaseModelList(items=items, next_cursor=None)
