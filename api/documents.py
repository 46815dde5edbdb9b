"""Documentation: refusals in the schema, a page per kind of problem, Swagger UI without a CDN."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from core.errors import PROBLEMS, NotFound, Problem
from core.http import PROBLEM_TYPE


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
    return {
        kind.status: {
            "model": ProblemDocument,
            "description": kind.title,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for kind in kinds
    }


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
