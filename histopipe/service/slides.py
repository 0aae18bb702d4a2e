"""`/v1/slides`: whole slides and archives of patches, graded as jobs."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from histopipe.service.answers import JobState, Patches, Result
from histopipe.service.jobs import Job
from histopipe.service.large import json_answer
from histopipe.service.problems import Refused, described
from histopipe.service.protocol import gone_of
from histopipe.service.reading import SLOWEST, Pace, save_file
from histopipe.service.state import service_of

UPLOADS = ("application/", "image/")
NAMES = "application/octet-stream"
MOST_SHOWN = 200_000  # patches of one case that are sent to a browser
LONGEST_CASE = 500  # letters of its name in an address
WIDEST_PIXEL = 1000.0  # micrometres
PIXEL_SIZES = ("mpp", "slide_mpp")  # parameters of a request, also as fields of a form

router = APIRouter(prefix="/v1/slides", tags=["slides and archives"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_SIZE = {"type": "number", "exclusiveMinimum": 0, "maximum": WIDEST_PIXEL}
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
Size = Annotated[
    float | None,
    Query(gt=0, le=WIDEST_PIXEL, description="Micrometres to a pixel; in a form it may be a field of this name."),
]
CaseName = Annotated[str, Query(max_length=LONGEST_CASE, description="Its `case_id` in the result.")]


@router.post(
    "",
    status_code=202,
    summary="Send a slide or an archive",
    responses={202: {"model": JobState}, **described(400, 401, 408, 413, 415, 422, 429, 507)},
    openapi_extra=_BODY,
)
async def send(
    request: Request,
    name: Annotated[str, Query(max_length=200, description="Of the file, where the body is the file itself.")] = "",
    mpp: Size = None,
    slide_mpp: Size = None,
) -> Response:
    """Takes the file and answers with a job, whose address stands in `Location`.

    `slide_mpp` is said of a slide whose file doesn't tell it or tells it wrongly, `mpp` of the model's patches where
    the data set doesn't.
    """
    service = service_of(request)
    job = service.jobs.open(service.model)
    try:
        pace = Pace(service.limits.upload_seconds, service.limits.seconds, SLOWEST)
        create = job.create
        fields = await save_file(
            request, service.limits.upload, pace, UPLOADS, lambda sent: create(sent or name), PIXEL_SIZES
        )
        job.mpp, job.slide_mpp = _size(fields, "mpp", mpp), _size(fields, "slide_mpp", slide_mpp)
    except BaseException:
        await service.jobs.remove(job)
        raise
    service.jobs.start(job)
    return JSONResponse(_state(job), 202, {"Location": f"/v1/slides/{job.id}"})


@router.get(
    "/{id}",
    summary="How far it has come",
    responses={200: {"model": JobState}, **described(401, 404, 422)},
)
async def state(request: Request, id: str) -> Response:
    """`state` ends as `done`, `failed` (then `error` says why) or `cancelled`."""
    return JSONResponse(_state(service_of(request).jobs.get(id)))


@router.delete("/{id}", status_code=204, summary="Cancel it, or forget its result", responses=described(401, 404, 422))
async def cancel(request: Request, id: str) -> Response:
    """Nothing of it stays on the server's disk."""
    jobs = service_of(request).jobs
    await jobs.remove(jobs.get(id))
    return Response(status_code=204)


@router.get(
    "/{id}/result",
    summary="What came out",
    responses={200: {"model": Result}, **described(401, 404, 409, 422, 429)},
)
async def result(request: Request, id: str) -> Response:
    """The summary, and one entry for each case."""
    service, job = service_of(request), _done(request, id)
    async with service.turns.take(gone_of(request)):
        return await asyncio.to_thread(lambda: json_answer(_result(job), service.memory))


@router.get(
    "/{id}/patches",
    summary="Places and probabilities of a case's patches",
    responses={200: {"model": Patches}, **described(401, 404, 409, 413, 422, 429)},
)
async def patches(request: Request, id: str, case: CaseName) -> Response:
    """What the page draws its map of."""
    service, job = service_of(request), _done(request, id)
    async with service.turns.take(gone_of(request)):
        return await asyncio.to_thread(lambda: json_answer(_patches(job, case), service.memory))


@router.get(
    "/{id}/table",
    summary="The table of all patches",
    responses={
        200: {"content": {"application/vnd.apache.parquet": _BINARY, "text/csv": _BINARY}},
        **described(401, 404, 409, 422, 429),
    },
)
async def table(
    request: Request,
    id: str,
    format: Annotated[str, Query(pattern="^(parquet|csv)$", description="`parquet` or `csv`.")] = "parquet",
) -> Response:
    """As `histopipe predict` writes it."""
    job = _done(request, id)
    path = job.result / "predictions.parquet"
    if format == "csv":
        async with service_of(request).turns.take(gone_of(request)):
            path = await asyncio.to_thread(_as_csv, job, path)
    kind = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}[format]
    return FileResponse(path, media_type=kind, filename=f"predictions.{format}")


@router.get(
    "/{id}/map",
    summary="The map of a case",
    responses={200: {"content": {"image/png": _BINARY}}, **described(401, 404, 409, 422)},
)
async def slide_map(request: Request, id: str, case: CaseName) -> Response:
    """A PNG: probability and decision side by side."""
    job = _done(request, id)
    return _picture(_map_path(job, case), "image/png", "map")


@router.get(
    "/{id}/tissue",
    summary="The tissue of a case",
    responses={200: {"content": {"image/jpeg": _BINARY}}, **described(401, 404, 409, 422)},
)
async def tissue(request: Request, id: str, case: CaseName) -> Response:
    """A JPEG of the box around the case's patches, at most 1,000 pixels a side."""
    job = _done(request, id)
    return _picture(_tissue_path(job, case), "image/jpeg", "picture")


def _size(fields: dict[str, str], name: str, asked: float | None) -> float | None:
    """A pixel size from a form's field, else from the address."""
    if not (said := fields.get(name, "").strip()):
        return asked
    try:
        size = float(said)
    except ValueError:
        size = math.nan
    if not 0 < size <= WIDEST_PIXEL:
        raise Refused(422, f"{name} is no pixel size: give micrometres, above 0 and up to {WIDEST_PIXEL:g}")
    return size


def _state(job: Job) -> dict[str, object]:
    shown = {name: getattr(job, name) for name in ("id", "name", "state", "step", "done", "total", "error", "created")}
    return {**shown, "model": job.model.shown}


def _done(request: Request, name: str) -> Job:
    job = service_of(request).jobs.get(name)
    if job.state != "done":
        raise Refused(409, job.error or f"it is {job.state}: ask again once it is done")
    return job


def _result(job: Job) -> dict[str, object]:
    point = job.model.point
    return {
        "id": job.id,
        "name": job.name,
        "model": job.model.shown,
        "threshold": point["threshold"],
        "positive_class": point["positive_class"],
        "summary": job.summary,
        "cases": _cases(job),
    }


def _cases(job: Job) -> list[dict[str, object]]:
    from histopipe.core.files import read_named

    rows = read_named(job.result / "cases.csv")
    names = ("case_id", "patches", "positive", "positive_share", "mean_probability", "placed")
    found: list[dict[Any, Any]] = rows[list(names)].to_dict("records")
    drawn = {"map": _map_path, "tissue": _tissue_path}
    return [
        {**row, **{name: path(job, str(row["case_id"])).is_file() for name, path in drawn.items()}} for row in found
    ]


def _patches(job: Job, case: str) -> dict[str, object]:
    import pandas as pd

    names = ["x", "y", "width", "height", "probability"]
    rows = pd.read_parquet(job.result / "predictions.parquet", columns=names, filters=[("case_id", "==", case)])
    if rows.empty:
        raise Refused(404, "no such case: name one of the result")
    if len(rows) > MOST_SHOWN:
        raise Refused(413, f"{len(rows):,} patches are more than a page can show: take the map or the table")
    return {"case_id": case, **{name: _plain(rows[name].tolist()) for name in names}}


def _plain(values: list[Any]) -> list[Any]:
    """JSON has no NaN; whole numbers that some rows lack come as floats."""
    return [None if value is None or math.isnan(value) else value for value in values]


def _as_csv(job: Job, path: Path) -> Path:
    import pyarrow.csv
    import pyarrow.parquet as pq

    from histopipe.core.files import replaced_file

    target = path.with_suffix(".csv")
    with job.writing:  # who asks at the same time waits for the same file
        if target.exists():
            return target
        with (
            replaced_file(target) as beside,
            pq.ParquetFile(path) as rows,
            pyarrow.csv.CSVWriter(beside, rows.schema_arrow) as writer,
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


def _picture(path: Path, kind: str, name: str) -> Response:
    if not path.is_file():
        raise Refused(404, f"no {name} of such a case: only those whose patches tell their places have one")
    return FileResponse(path, media_type=kind)
