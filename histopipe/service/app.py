"""The application: every route, and what surrounds them."""

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
from histopipe.service.guards import Guards
from histopipe.service.problems import Problem, answer_problems
from histopipe.service.state import Service

TITLE = "histopipe"
NOTICE = "**Research use only.** Not a medical device; no clinical decision may rest on it."


def make_app(service: Service) -> ASGIApp:
    """The ASGI application of a service, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    # no pages of FastAPI's own: they load their scripts from elsewhere
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
    app.add_api_route("/openapi.json", _describe, include_in_schema=False)
    answer_problems(app)
    app.openapi = lambda: _described(app, service.token is not None)  # type: ignore[method-assign]
    routes = [str(getattr(route, "path", "")) for route in app.routes]
    names = [path for path in [*app.openapi()["paths"], *about.FILES, *routes] if path]
    return Guards(app, service.token, lambda: service.grader.full, service.metrics, names, service.hosts)


async def _describe(request: Request) -> Response:
    """The OpenAPI description, written once: that takes milliseconds."""
    state = request.app.state
    if not hasattr(state, "description"):
        state.description = json.dumps(request.app.openapi()).encode()
    return Response(state.description, media_type="application/json")


def _described(app: FastAPI, guarded: bool) -> dict[str, Any]:
    """The OpenAPI description."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {}) | {"Problem": problem}
    schemas.pop("HTTPValidationError", None), schemas.pop("ValidationError", None)
    _trim(found)
    if guarded:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        for path in ("/healthz", "/readyz"):
            found["paths"][path]["get"]["security"] = []
    app.openapi_schema = found
    return found


def _trim(found: dict[str, Any]) -> None:
    """Of what FastAPI adds by itself: answers without a body have none of JSON's."""
    for operations in found["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                content = answer.get("content", {})
                if content.get("application/json") == {"schema": {}}:
                    del content["application/json"]
