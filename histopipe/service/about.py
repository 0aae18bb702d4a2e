"""The model's card, the page and its examples, and what machines ask of the server's health."""

from __future__ import annotations

import asyncio
import mimetypes
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from histopipe.service.answers import Description, Example, Health
from histopipe.service.examples import PLACED, draw_case
from histopipe.service.problems import Refused, described
from histopipe.service.protocol import gone_of
from histopipe.service.state import Service, service_of

PAGE = Path(__file__).with_name("page")
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/markdown.js": "markdown.js"}
FILES |= {"/slide.js": "slide.js"}

router = APIRouter()


@router.get(
    "/v1/model", tags=["model"], summary="The model in use", responses={200: {"model": Description}, **described(401)}
)
async def model(request: Request) -> Response:
    """Name, version, operating point, limits and card."""
    service = service_of(request)
    found, limits = service.model, service.limits
    point = found.point
    return JSONResponse(
        {
            "model": found.shown,
            **{name: point[name] for name in ("data_set", "positive_class", "negative_class", "threshold", "resized")},
            **{name: point.get(name) for name in ("rule", "temperature")},
            "patch_size": list(found.served.patch_size),
            "precision": service.asked.precision,
            "loaded": found.loaded,
            "limits": {
                "images": limits.images,
                "pixels": limits.pixels,
                "body_bytes": limits.body,
                "upload_bytes": limits.upload,
            },
            "card": found.card,
        }
    )


@router.get(
    "/v1/examples",
    tags=["model"],
    summary="Patches to try",
    responses={200: {"model": list[Example]}, **described(401)},
)
async def examples(request: Request) -> Response:
    """Drawn by the project: they say nothing of tissue. Empty where none are drawn in the data set's likeness."""
    return JSONResponse(await service_of(request).examples())


@router.get(
    "/v1/examples/case",
    tags=["model"],
    summary="A case to try",
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
        **described(401, 404, 429),
    },
)
async def example_case(request: Request) -> Response:
    """A zip with the patches of one drawn case, as `/v1/slides` takes it."""
    if service_of(request).model.point["data_set"] != PLACED:
        raise Refused(404, "no case is drawn in the likeness of this data set")
    async with service_of(request).turns.take(gone_of(request)):
        return Response(await asyncio.to_thread(draw_case), media_type="application/zip")


@router.get("/healthz", tags=["health"], summary="Whether the server lives", responses={200: {"model": Health}})
async def healthz(request: Request) -> Response:
    """Always 200 from a server that answers at all."""
    return JSONResponse(_health(service_of(request)))


@router.get(
    "/readyz",
    tags=["health"],
    summary="Whether it takes requests",
    responses={200: {"model": Health}, 503: {"model": Health}},
)
async def readyz(request: Request) -> Response:
    """503 while it stops, or where nothing is graded any more; `problem` tells of a version that couldn't be loaded."""
    found = _health(service_of(request))
    return JSONResponse(found, 200 if found["status"] == "ok" else 503)


def _health(service: Service) -> dict[str, object]:
    status = "stopping" if service.stopping else "ok" if service.grader.alive else "broken"
    return {"status": status, "model": service.model.shown, "problem": service.keeper.problem}


@router.get(
    "/metrics",
    tags=["health"],
    summary="For Prometheus",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **described(401)},
)
async def metrics(request: Request) -> Response:
    """Requests, seconds, batches, queue, jobs, versions."""
    from prometheus_client import CONTENT_TYPE_LATEST

    return Response(service_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@cache
def _file(path: str) -> tuple[bytes, str | None]:
    """Content and media type of a file of the page."""
    file = PAGE / FILES[path]
    return file.read_bytes(), mimetypes.guess_type(file.name)[0]


async def page(request: Request) -> Response:
    """The page and what it is made of."""
    content, kind = _file(request.url.path)
    return Response(content, media_type=kind)


for path in FILES:
    router.add_api_route(path, page, include_in_schema=False)
