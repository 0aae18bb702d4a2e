"""The routes `/v1/predict` and `/v1/explain`, for one or many patches."""

from __future__ import annotations

import base64
import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import describe_problems
from histopipe.service.protocol import gone_check
from histopipe.service.reading import TransferLimits, read_files
from histopipe.service.schemas import Explanation, Predictions
from histopipe.service.state import service_of

IMAGE_TYPES = ("image/", "application/octet-stream")
REFUSALS = describe_problems(400, 401, 408, 413, 415, 422, 429)

router = APIRouter(tags=["patches"])


def _describe_body(field: str, description: str) -> dict[str, Any]:
    """Return the OpenAPI description of a request body: images in a form, or one image as the body."""
    binary = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": binary} if field == "images" else binary
    form = {"type": "object", "properties": {field: files}, "required": [field]}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    content |= {kind: {"schema": binary} for kind in ("image/png", "image/jpeg", "image/tiff", "image/bmp")}
    return {"requestBody": {"required": True, "description": description, "content": content}}


@router.post(
    "/v1/predict",
    summary="Predict patches",
    responses={200: {"model": Predictions}, **REFUSALS},
    openapi_extra=_describe_body(
        "images", "One or many images in a form, or one image as the body: PNG, JPEG, TIFF or BMP."
    ),
)
async def predict(request: Request) -> Response:
    """Return the calibrated probability and the decision for every image.

    If some images can't be predicted the request is refused, and the response names them.
    """
    service = service_of(request)
    limits, model = service.limits, service.model
    with service.memory.share() as memory:
        files = await read_files(request, limits.body, limits.images, _transfer_limits(limits), IMAGE_TYPES, memory)
        names = [file.name for file in files]
        probabilities = await service.predictor.predict(model, files, memory, gone_check(request))
    predictions = [_prediction(name, value, model) for name, value in zip(names, probabilities, strict=True)]
    return _json_response({**_heading(model), "predictions": predictions})


@router.post(
    "/v1/explain",
    summary="Predict one patch and explain the prediction",
    responses={200: {"model": Explanation}, **REFUSALS, **describe_problems(501)},
    openapi_extra=_describe_body("image", "One image in a form, or as the body: PNG, JPEG, TIFF or BMP."),
)
async def explain(request: Request) -> Response:
    """Return the prediction for one image with its evidence map (HiResCAM), drawn over the image in grey."""
    service = service_of(request)
    limits, model = service.limits, service.model
    with service.memory.share() as memory:
        files = await read_files(request, limits.body, 1, _transfer_limits(limits), IMAGE_TYPES, memory)
        probability, overlay = await service.explanations.explain(model, files[0], memory, gone_check(request))
    picture = {"overlay": base64.b64encode(overlay).decode()}
    return _json_response({**_heading(model), **_prediction(files[0].name, probability, model), **picture})


def _transfer_limits(limits: Limits) -> TransferLimits:
    return TransferLimits(limits.seconds, limits.seconds)


def _heading(model: Model) -> dict[str, object]:
    point = model.point
    return {"model": model.identity, "threshold": point["threshold"], "positive_class": point["positive_class"]}


def _prediction(name: str, probability: float, model: Model) -> dict[str, object]:
    decision = int(probability >= model.point["threshold"])
    label = model.point["positive_class" if decision else "negative_class"]
    return {"name": name or None, "probability": probability, "decision": decision, "label": label}


def _json_response(content: dict[str, object]) -> Response:
    return Response(json.dumps(content).encode(), media_type="application/json")
