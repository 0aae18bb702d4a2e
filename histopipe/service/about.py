"""Routes for the model card, the web page and its examples, and the health of the service."""

from __future__ import annotations

import asyncio
import mimetypes
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from histopipe.service.examples import PLACED, draw_case
from histopipe.service.problems import RequestError, describe_problems
from histopipe.service.protocol import gone_check
from histopipe.service.schemas import Example, Health, ModelDescription
from histopipe.service.state import Service, service_of

PAGE = Path(__file__).with_name("page")
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/markdown.js": "markdown.js"}
FILES |= {"/slide.js": "slide.js"}

router = APIRouter()


@router.get(
    "/v1/model",
    tags=["model"],
    summary="Describe the model in use",
    responses={200: {"model": ModelDescription}, **describe_problems(401)},
)
async def model(request: Request) -> Response:
    """Return name, version, operating point, limits and model card."""
    service = service_of(request)
    loaded, limits = service.model, service.limits
    point = loaded.point
    return JSONResponse(
        {
            "model": loaded.identity,
            **{name: point[name] for name in ("data_set", "positive_class", "negative_class", "threshold", "resized")},
            **{name: point.get(name) for name in ("rule", "temperature")},
            "patch_size": list(loaded.served.patch_size),
            "precision": service.model_request.precision,
            "loaded": loaded.loaded,
            "limits": {
                "images": limits.images,
                "pixels": limits.pixels,
                "body_bytes": limits.body,
                "upload_bytes": limits.upload,
            },
            "card": loaded.card,
        }
    )


@router.get(
    "/v1/examples",
    tags=["model"],
    summary="Get synthetic patches to try",
    responses={200: {"model": list[Example]}, **describe_problems(401)},
)
async def examples(request: Request) -> Response:
    """Return synthetic patches to try; they say nothing about real tissue.

    The list is empty for data sets that have no synthetic source.
    """
    return JSONResponse(await service_of(request).examples())


@router.get(
    "/v1/examples/case",
    tags=["model"],
    summary="Get a synthetic case to try",
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
        **describe_problems(401, 404, 429),
    },
)
async def example_case(request: Request) -> Response:
    """Return the patches of one synthetic case as a zip archive, which `/v1/slides` accepts."""
    if service_of(request).model.point["data_set"] != PLACED:
        raise RequestError(404, "there is no synthetic case for this data set")
    async with service_of(request).read_limiter.turn(gone_check(request)):
        return Response(await asyncio.to_thread(draw_case), media_type="application/zip")


@router.get("/healthz", tags=["health"], summary="Check that the service is alive", responses={200: {"model": Health}})
async def healthz(request: Request) -> Response:
    """Return status 200 as long as the process answers at all."""
    return JSONResponse(_health(service_of(request)))


@router.get(
    "/readyz",
    tags=["health"],
    summary="Check that the service accepts requests",
    responses={200: {"model": Health}, 503: {"model": Health}},
)
async def readyz(request: Request) -> Response:
    """Return status 200 if the service accepts requests, 503 while it stops or if its predicting thread has died.

    `problem` says why a new version of the model couldn't be loaded.
    """
    health = _health(service_of(request))
    return JSONResponse(health, 200 if health["status"] == "ok" else 503)


def _health(service: Service) -> dict[str, object]:
    status = "stopping" if service.stopping else "ok" if service.predictor.is_alive else "broken"
    return {"status": status, "model": service.model.identity, "problem": service.reloader.problem}


@router.get(
    "/metrics",
    tags=["health"],
    summary="Get metrics for Prometheus",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **describe_problems(401)},
)
async def metrics(request: Request) -> Response:
    """Return counts and durations of requests, sizes of batches and queue, jobs, and versions loaded."""
    from prometheus_client import CONTENT_TYPE_LATEST

    return Response(service_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@cache
def _read_page_file(path: str) -> tuple[bytes, str | None]:
    """Read a file of the web page; return its content and media type."""
    file = PAGE / FILES[path]
    return file.read_bytes(), mimetypes.guess_type(file.name)[0]


async def page(request: Request) -> Response:
    """Return the web page, or a script or style sheet of it."""
    content, kind = _read_page_file(request.url.path)
    return Response(content, media_type=kind)


for path in FILES:
    router.add_api_route(path, page, include_in_schema=False)
