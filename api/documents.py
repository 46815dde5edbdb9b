"""Documentation: refusals in the schema, a page per kind of problem, Swagger UI without a CDN."""

from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Security
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from core.errors import PROBLEMS, ForeignHost, Invalid, NotFound, Problem, Unauthorized
from core.http import PROBLEM_TYPE, HttpApp

REFERENCE = "#/components/schemas/{model}"


class FieldProblem(BaseModel):
    """One wrong field."""

    pointer: str = Field(examples=["#/hyperparameters/learning_rate"])
    detail: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="the request's id, which is in the log as well")
    errors: list[FieldProblem] | None = None


def problems(*kinds: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of an endpoint that may refuse like this."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": REFERENCE.format(model=ProblemDocument.__name__)}}}
    titles: dict[int, list[str]] = {}
    for kind in kinds:
        titles.setdefault(kind.status, []).append(kind.title)
    return {status: {"description": " or ".join(said), "content": content} for status, said in titles.items()}


class DocumentedApp(HttpApp):
    """An application whose schema also holds models that no endpoint takes or returns by itself.

    Attributes:
        documented: Those models; what refers to them is written by hand.
    """

    documented: tuple[type[BaseModel], ...] = (ProblemDocument,)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI schema, made once."""
        if self.openapi_schema is None:
            schemas = super().openapi()["components"]["schemas"]
            _, made = models_json_schema([(model, "validation") for model in self.documented], ref_template=REFERENCE)
            schemas.update(made["$defs"])
        return super().openapi()


# What every endpoint may answer, and the key that it may want.
EVERYWHERE: Final = problems(Unauthorized, ForeignHost, Invalid)
KEY: Final = Security(HTTPBearer(auto_error=False, description="the server's key, when it has one"))


router = APIRouter(include_in_schema=False)


@router.get("/problems/{slug}")
def explain_problem(slug: str) -> PlainTextResponse:
    """Explain a kind of problem; the `type` of every problem document points here."""
    for kind in PROBLEMS:
        if kind.slug == slug:
            return PlainTextResponse(f"{kind.status} {kind.title}\n\n{kind.__doc__}\n")
    raise NotFound(f"There is no problem {slug!r}; the kinds are {', '.join(kind.slug for kind in PROBLEMS)}.")


def install_docs(app: FastAPI) -> None:
    """Serve `/docs` from files that a package ships, so that it works without a network."""
    app.mount("/docs/assets", StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title} API",
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
        )
