"""`/v1/predict` and `/v1/explain`: patches, one or many."""

from __future__ import annotations

import base64
import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from histopipe.service.answers import Explanation, Prediction
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import described
from histopipe.service.protocol import gone_of
from histopipe.service.reading import Pace, read_files
from histopipe.service.state import service_of

IMAGE_TYPES = ("image/", "application/octet-stream")
REFUSALS = described(400, 401, 408, 413, 415, 422, 429)

router = APIRouter(tags=["patches"])


def _body(files: str, most: str) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    several = {"type": "array", "items": binary} if files == "images" else binary
    form = {"type": "object", "properties": {files: several}, "required": [files]}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    content |= {kind: {"schema": binary} for kind in ("image/png", "image/jpeg", "image/tiff", "image/bmp")}
    return {"requestBody": {"required": True, "description": most, "content": content}}


@router.post(
    "/v1/predict",
    summary="Grade patches",
    responses={200: {"model": Prediction}, **REFUSALS},
    openapi_extra=_body("images", "One or many images in a form, or one image as the body: PNG, JPEG, TIFF or BMP."),
)
async def predict(request: Request) -> Response:
    """Calibrated probability and decision of every image, or a refusal that names those that can't be graded."""
    service = service_of(request)
    limits, model = service.limits, service.model
    with service.memory.share() as take:
        files = await read_files(request, limits.body, limits.images, _pace(limits), IMAGE_TYPES, take)
        names = [file.name for file in files]
        found = await service.grader.grade(model, files, take, gone_of(request))
    grades = [_grade(name, value, model) for name, value in zip(names, found, strict=True)]
    return _json({**_heading(model), "predictions": grades})


@router.post(
    "/v1/explain",
    summary="Grade one patch and show why",
    responses={200: {"model": Explanation}, **REFUSALS, **described(501)},
    openapi_extra=_body("image", "One image in a form, or as the body: PNG, JPEG, TIFF or BMP."),
)
async def explain(request: Request) -> Response:
    """As `/v1/predict` for one image, with its map of evidence (HiResCAM) over the image in grey."""
    service = service_of(request)
    limits, model = service.limits, service.model
    with service.memory.share() as take:
        files = await read_files(request, limits.body, 1, _pace(limits), IMAGE_TYPES, take)
        probability, overlay = await service.explanations.explain(model, files[0], take, gone_of(request))
    picture = {"overlay": base64.b64encode(overlay).decode()}
    return _json({**_heading(model), **_grade(files[0].name, probability, model), **picture})


def _pace(limits: Limits) -> Pace:
    return Pace(limits.seconds, limits.seconds)


def _heading(model: Model) -> dict[str, object]:
    point = model.point
    return {"model": model.shown, "threshold": point["threshold"], "positive_class": point["positive_class"]}


def _grade(name: str, probability: float, model: Model) -> dict[str, object]:
    decision = int(probability >= model.point["threshold"])
    label = model.point["positive_class" if decision else "negative_class"]
    return {"name": name or None, "probability": probability, "decision": decision, "label": label}


def _json(content: dict[str, object]) -> Response:
    return Response(json.dumps(content).encode(), media_type="application/json")
