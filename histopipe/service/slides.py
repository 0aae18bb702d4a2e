"""The routes below `/v1/slides`: whole slides and archives of patches, predicted as jobs."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from histopipe.service.jobs import Job
from histopipe.service.large_responses import json_response
from histopipe.service.problems import RequestError, describe_problems
from histopipe.service.protocol import gone_check
from histopipe.service.reading import MIN_RATE, TransferLimits, save_file
from histopipe.service.schemas import CasePatches, JobResult, JobState
from histopipe.service.state import service_of

UPLOAD_TYPES = ("application/", "image/")
MAX_SHOWN = 200_000  # patches of one case that are sent to a browser
LONGEST_CASE = 500  # characters of a case id in an address
MAX_PIXEL_SIZE = 1000.0  # micrometres
PIXEL_SIZES = ("mpp", "slide_mpp")  # parameters of a request, also as fields of a form

router = APIRouter(prefix="/v1/slides", tags=["slides and archives"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_SIZE = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_PIXEL_SIZE}
_FORM = {
    "type": "object",
    "properties": {"file": _BINARY["schema"], **dict.fromkeys(PIXEL_SIZES, _SIZE)},
    "required": ["file"],
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "An archive of patches (zip, tar) or a slide, in a form or as the body.",
        "content": {"multipart/form-data": {"schema": _FORM}, "application/octet-stream": _BINARY},
    }
}
PixelSize = Annotated[
    float | None,
    Query(
        gt=0,
        le=MAX_PIXEL_SIZE,
        description="Pixel size in micrometres; a form may contain a field of this name instead.",
    ),
]
CaseId = Annotated[str, Query(max_length=LONGEST_CASE, description="The `case_id` of a case in the result.")]


@router.post(
    "",
    status_code=202,
    summary="Send a slide or an archive",
    responses={202: {"model": JobState}, **describe_problems(400, 401, 408, 413, 415, 422, 429, 507)},
    openapi_extra=_BODY,
)
async def send(
    request: Request,
    name: Annotated[str, Query(max_length=200, description="Name of the file, if the file is the whole body.")] = "",
    mpp: PixelSize = None,
    slide_mpp: PixelSize = None,
) -> Response:
    """Accept a file and create a job, whose address is in the header `Location`.

    Send `slide_mpp` if the slide's file doesn't state its pixel size or states a wrong one, and `mpp` if the data set
    doesn't state the pixel size of the model's patches.
    """
    service = service_of(request)
    job = service.jobs.open(service.model)
    try:
        transfer_limits = TransferLimits(service.limits.upload_seconds, service.limits.seconds, MIN_RATE)
        create = job.create
        fields = await save_file(
            *(request, service.limits.upload, transfer_limits, UPLOAD_TYPES),
            lambda file_name: create(file_name or name),
            PIXEL_SIZES,
        )
        job.mpp, job.slide_mpp = _pixel_size(fields, "mpp", mpp), _pixel_size(fields, "slide_mpp", slide_mpp)
    except BaseException:
        await service.jobs.remove(job)
        raise
    service.jobs.start(job)
    return JSONResponse(_state(job), 202, {"Location": f"/v1/slides/{job.id}"})


@router.get(
    "/{id}",
    summary="Get the progress of a job",
    responses={200: {"model": JobState}, **describe_problems(401, 404, 422)},
)
async def state(request: Request, id: str) -> Response:
    """Return the state of a job.

    The last `state` is `done`, `failed` (then `error` says why) or `cancelled`.
    """
    return JSONResponse(_state(service_of(request).jobs.get(id)))


@router.delete(
    "/{id}", status_code=204, summary="Cancel a job or delete its result", responses=describe_problems(401, 404, 422)
)
async def cancel(request: Request, id: str) -> Response:
    """Cancel a job that isn't done, or delete its result; nothing of it stays on the service's disk."""
    jobs = service_of(request).jobs
    await jobs.remove(jobs.get(id))
    return Response(status_code=204)


@router.get(
    "/{id}/result",
    summary="Get the result of a job",
    responses={200: {"model": JobResult}, **describe_problems(401, 404, 409, 422, 429)},
)
async def result(request: Request, id: str) -> Response:
    """Return the summary, with one entry for each case."""
    service, job = service_of(request), _finished_job(request, id)
    async with service.read_limiter.turn(gone_check(request)):
        return await asyncio.to_thread(lambda: json_response(_result(job), service.memory))


@router.get(
    "/{id}/patches",
    summary="Get positions and probabilities of a case's patches",
    responses={200: {"model": CasePatches}, **describe_problems(401, 404, 409, 413, 422, 429)},
)
async def patches(request: Request, id: str, case: CaseId) -> Response:
    """Return the patches of a case, from which the web page draws its map."""
    service, job = service_of(request), _finished_job(request, id)
    async with service.read_limiter.turn(gone_check(request)):
        return await asyncio.to_thread(lambda: json_response(_patches(job, case), service.memory))


@router.get(
    "/{id}/table",
    summary="Get the table of all patches",
    responses={
        200: {"content": {"application/vnd.apache.parquet": _BINARY, "text/csv": _BINARY}},
        **describe_problems(401, 404, 409, 422, 429),
    },
)
async def table(
    request: Request,
    id: str,
    format: Annotated[str, Query(pattern="^(parquet|csv)$", description="`parquet` or `csv`.")] = "parquet",
) -> Response:
    """Return the table of predictions that `histopipe predict` writes."""
    job = _finished_job(request, id)
    path = job.result / "predictions.parquet"
    if format == "csv":
        async with service_of(request).read_limiter.turn(gone_check(request)):
            path = await asyncio.to_thread(_write_csv, job, path)
    kind = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}[format]
    return FileResponse(path, media_type=kind, filename=f"predictions.{format}")


@router.get(
    "/{id}/map",
    summary="Get the map of a case",
    responses={200: {"content": {"image/png": _BINARY}}, **describe_problems(401, 404, 409, 422)},
)
async def slide_map(request: Request, id: str, case: CaseId) -> Response:
    """Return a PNG with the probabilities and the decisions of a case."""
    job = _finished_job(request, id)
    return _image_response(_map_path(job, case), "image/png", "map")


@router.get(
    "/{id}/tissue",
    summary="Get an image of the tissue of a case",
    responses={200: {"content": {"image/jpeg": _BINARY}}, **describe_problems(401, 404, 409, 422)},
)
async def tissue(request: Request, id: str, case: CaseId) -> Response:
    """Return a JPEG of the tissue in the bounding box of a case's patches, at most 1,000 pixels on its longer side."""
    job = _finished_job(request, id)
    return _image_response(_tissue_path(job, case), "image/jpeg", "image")


def _pixel_size(fields: dict[str, str], name: str, parameter: float | None) -> float | None:
    """Return a pixel size from a form's field if it is filled in, otherwise from the request's parameter."""
    if not (text := fields.get(name, "").strip()):
        return parameter
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size <= MAX_PIXEL_SIZE:
        raise RequestError(422, f"{name} is no pixel size: give micrometres, above 0 and up to {MAX_PIXEL_SIZE:g}")
    return size


def _state(job: Job) -> dict[str, object]:
    names = ("id", "name", "state", "step", "done", "total", "error", "created")
    return {**{name: getattr(job, name) for name in names}, "model": job.model.identity}


def _finished_job(request: Request, job_id: str) -> Job:
    job = service_of(request).jobs.get(job_id)
    if job.state != "done":
        raise RequestError(409, job.error or f"the job is {job.state}: ask again once it is done")
    return job


def _result(job: Job) -> dict[str, object]:
    point = job.model.point
    return {
        "id": job.id,
        "name": job.name,
        "model": job.model.identity,
        "threshold": point["threshold"],
        "positive_class": point["positive_class"],
        "summary": job.summary,
        "cases": _cases(job),
    }


def _cases(job: Job) -> list[dict[str, object]]:
    from histopipe.core.files import read_case_table

    rows = read_case_table(job.result / "cases.csv")
    columns = ["case_id", "patches", "positive", "positive_share", "mean_probability", "placed"]
    cases: list[dict[Any, Any]] = rows[columns].to_dict("records")
    images = {"map": _map_path, "tissue": _tissue_path}
    return [
        {**case, **{name: path(job, str(case["case_id"])).is_file() for name, path in images.items()}} for case in cases
    ]


def _patches(job: Job, case: str) -> dict[str, object]:
    import pandas as pd

    columns = ["x", "y", "width", "height", "probability"]
    rows = pd.read_parquet(job.result / "predictions.parquet", columns=columns, filters=[("case_id", "==", case)])
    if rows.empty:
        raise RequestError(404, "no such case: name one of the result")
    if len(rows) > MAX_SHOWN:
        raise RequestError(413, f"{len(rows):,} patches are more than a page can show: use the map or the table")
    return {"case_id": case, **{name: _without_nan(rows[name].tolist()) for name in columns}}


def _without_nan(values: list[Any]) -> list[Any]:
    """Replace NaN by None: JSON has no NaN, and pandas uses it for missing positions."""
    return [None if value is None or math.isnan(value) else value for value in values]


def _write_csv(job: Job, path: Path) -> Path:
    """Write a Parquet table as CSV, unless that was done before; return the path of the CSV file."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    from histopipe.core.files import replaced_file

    target = path.with_suffix(".csv")
    with job.writing:  # requests that come at the same time wait for the same file
        if target.exists():
            return target
        with (
            replaced_file(target) as partial,
            pq.ParquetFile(path) as rows,
            pyarrow.csv.CSVWriter(partial, rows.schema_arrow) as writer,
        ):
            for batch in rows.iter_batches():
                writer.write_batch(batch)
    return target


def _map_path(job: Job, case: str) -> Path:
    from histopipe.evaluation.slide_figures import file_name

    return job.result / "maps" / file_name(case)


def _tissue_path(job: Job, case: str) -> Path:
    from histopipe.inference.pictures import FOLDER, picture_file

    return job.result / FOLDER / picture_file(case)


def _image_response(path: Path, media_type: str, name: str) -> Response:
    if not path.is_file():
        raise RequestError(404, f"there is no {name} of such a case: only cases whose patches have positions have one")
    return FileResponse(path, media_type=media_type)
