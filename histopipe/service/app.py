"""The ASGI application: all routes, the OpenAPI description, and the guard around them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from histopipe import __version__
from histopipe.service import about, patches, slides
from histopipe.service.guards import RequestGuard
from histopipe.service.problems import Problem, add_error_handlers
from histopipe.service.state import Service

TITLE = "histopipe"
NOTICE = "**Research use only.** Not a medical device; no clinical decision may rest on it."


def make_app(service: Service) -> ASGIApp:
    """Build the ASGI application of a service; the application starts and stops the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    # without FastAPI's own documentation pages, which load scripts from other sites
    app = FastAPI(
        title=TITLE,
        version=__version__,
        description=NOTICE,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.service = service
    for part in (patches, slides, about):
        app.include_router(part.router)
    app.add_api_route("/openapi.json", _send_description, include_in_schema=False)
    add_error_handlers(app)
    app.openapi = lambda: _describe(app, service.token is not None)  # type: ignore[method-assign]
    routes = [str(getattr(route, "path", "")) for route in app.routes]
    names = [path for path in [*app.openapi()["paths"], *about.FILES, *routes] if path]
    return RequestGuard(app, service.token, lambda: service.predictor.is_full, service.metrics, names, service.hosts)


async def _send_description(request: Request) -> Response:
    """Return the OpenAPI description, which is serialised only once because that takes milliseconds."""
    state = request.app.state
    if not hasattr(state, "description"):
        state.description = json.dumps(request.app.openapi()).encode()
    return Response(state.description, media_type="application/json")


def _describe(app: FastAPI, needs_token: bool) -> dict[str, Any]:
    """Build the OpenAPI description."""
    if app.openapi_schema:
        return app.openapi_schema
    description = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = description.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {}) | {"Problem": problem}
    schemas.pop("HTTPValidationError", None), schemas.pop("ValidationError", None)
    _remove_empty_content(description)
    if needs_token:
        description["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        description["security"] = [{"token": []}]
        for path in ("/healthz", "/readyz"):
            description["paths"][path]["get"]["security"] = []
    app.openapi_schema = description
    return description


def _remove_empty_content(description: dict[str, Any]) -> None:
    """Remove the empty JSON content that FastAPI adds to responses without a body."""
    for operations in description["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                content = response.get("content", {})
                if content.get("application/json") == {"schema": {}}:
                    del content["application/json"]
