"""Grading new patches and slides: in bounded memory, however many there are."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.core.cases.readings import is_listed, reading_entry, recorded_reading
from histopipe.core.errors import ScoringError
from histopipe.core.files import write_json
from histopipe.core.outputs.claims import OutputFolder, ensure_claimed
from histopipe.core.tables import write_csv
from histopipe.core.workspace import Workspace
from histopipe.inference.grader import Grader
from histopipe.inference.inputs import Found, SlideFound, distinct_slides, find_images, find_slides
from histopipe.inference.maps import draw_maps
from histopipe.inference.model import SCHEMES, Served, load_served
from histopipe.inference.naming import CaseNamer
from histopipe.inference.pictures import FOLDER as TISSUE
from histopipe.inference.pictures import PatchPictures
from histopipe.inference.pseudonyms import Names, OwnNames, write_key_table
from histopipe.inference.record import SUMMARY, PatchesPart, ScoreSummary, SlideRow, SlidesPart
from histopipe.inference.slide_prediction import MAPS, SlideGrader, SlideOptions
from histopipe.inference.table import SCHEMA, Tally, chunk_size, graded_rows, sort_table, written_as_csv
from histopipe.ingest.archives.limits import DEFAULT_LIMIT, MemberLimit
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch, decode_patch, pad_patch, resize_patch
from histopipe.networks.openvino import Precision

LOG = logging.getLogger(__name__)

COMMAND = "predict"  # as the marker of its folders has it
PREDICTIONS, CASES, SLIDES = "predictions.parquet", "cases.csv", "slides.csv"

Format = Literal["parquet", "csv"]


def score(
    inputs: list[Path],
    model: str,
    dataset: str,
    out: Path | OutputFolder,
    workspace: Workspace,
    precision: Precision = "float32",
    table: Format = "parquet",
    reading: SlideOptions | None = None,
    names: Names | None = None,
    key_table: Path | None = None,
    limit: MemberLimit = DEFAULT_LIMIT,
) -> ScoreSummary:
    """Grade every image and slide of the inputs; write a table of patches, one of cases, maps and a summary into `out`.

    Args:
        inputs: image files, whole slides, folders of both, and archives.
        model: as `histopipe.inference.model.load_served` takes it.
        dataset: the model's data set.
        out: the folder to write, whole or not at all; as
            `histopipe.core.outputs.claims.claim_folder` gives it, or a path, where an earlier output of `predict` is
            replaced and nothing else.
        workspace: whose tracking store is asked.
        precision: of the arithmetic; bfloat16 where the CPU has it.
        table: the format of the table of patches.
        reading: how slides are read, and what overlays of them are written.
        names: what cases and files are called in everything that is written; their own names by default.
        key_table: where to write what the names stand for; it is there before `out` is.
        limit: how many members an archive or a folder may have.

    Returns:
        The content of `summary.json`.

    Raises:
        ScoringError: no such model or input, none of the images can be graded, or there are slides and nobody says at
            what resolution to cut them up.
        ArchiveError: an archive can't be read.
        InferenceError: the CPU has no bfloat16.
        PseudonymError: the table of names can't be written.
        OutputError: something else lies in `out`, or it would be read as input.
    """
    reading = reading or SlideOptions()
    _require_resolution(find_slides(inputs, limit), reading, dataset)
    served = load_served(model, dataset, workspace)
    namer = case_namer(served, workspace)
    return grade_inputs(served, inputs, out, precision, table, reading, names, key_table, limit, namer)


def case_namer(served: Served, workspace: Workspace | None = None) -> CaseNamer:
    """What names the cases of a model's new patches.

    Raises:
        SourceError: the data set's manifest, which lies in the workspace, isn't what it should be.
    """
    classes = [served.point[key] for key in ("negative_class", "positive_class") if key in served.point]
    dataset = served.point["data_set"]
    # as the model's own cases are read, so that cases it has seen are told and pseudonyms stay the same
    return CaseNamer.of(dataset, classes, workspace, recorded_reading(served.point, dataset), is_listed(served.point))


def grade_inputs(
    served: Served,
    inputs: list[Path],
    out: Path | OutputFolder,
    precision: Precision = "float32",
    table: Format = "parquet",
    reading: SlideOptions | None = None,
    names: Names | None = None,
    key_table: Path | None = None,
    limit: MemberLimit = DEFAULT_LIMIT,
    namer: CaseNamer | None = None,
) -> ScoreSummary:
    """As `score`, by a model that is loaded already."""
    names, reading, namer = names or OwnNames(), reading or SlideOptions(), namer or case_namer(served)
    output = ensure_claimed(out, COMMAND, {"the input": inputs})
    slides = find_slides(inputs, limit)
    _require_resolution(slides, reading, served.point["data_set"])
    grader, tally = Grader(served, precision), Tally(by_name=names.pseudonymised)
    pictures = PatchPictures(served.point["resized"]) if reading.tissue else None
    with output.written() as folder:
        grade_slides = SlideGrader(grader.probabilities, served.patch_size, served.point, reading, folder, tally)
        with pq.ParquetWriter(folder / PREDICTIONS, SCHEMA) as writer:
            _grade_patches(served, grader, inputs, names, tally, pictures, writer, limit, namer)
            taken = {names.known.get(case, case) for case in tally.cases()}
            graded = grade_slides.grade(_renamed_slides(distinct_slides(slides, taken), names), writer)
        cases = tally.table()
        _require_some(cases, tally, inputs)
        if pictures:
            pictures.draw(folder / TISSUE)
        if names.pseudonymised:
            sort_table(folder / PREDICTIONS, cases)
        _write_tables(cases, graded, folder)
        own_maps = [slide["case_id"] for slide in graded]
        maps = len(draw_maps(cases, folder / PREDICTIONS, served.point, folder / MAPS, own_maps)) + len(own_maps)
        summary: ScoreSummary = {
            **_summary(served, cases, tally, maps, precision, names),
            **_of_slides(graded, reading),
            "naming": dict(sorted((kind, count) for kind, count in namer.counts.items() if count)),
        }
        write_json(folder / SUMMARY, summary)
        if table == "csv":
            written_as_csv(folder / PREDICTIONS)
        if key_table:
            write_key_table(names, key_table)
    return summary


def _require_resolution(slides: list[SlideFound], reading: SlideOptions, dataset: str) -> None:
    if slides and reading.mpp is None:
        raise ScoringError(
            f"{dataset} doesn't say how much tissue a pixel of its patches shows, so slides can't be cut up for it: "
            f"give --mpp, in micrometres, or `{dataset}: {{mpp: …}}` in params.yaml"
        )
    if not slides and reading.overlays:
        raise ScoringError("overlays are drawn over whole slides, and none was given: leave out --overlay")


def _require_some(cases: pd.DataFrame, tally: Tally, inputs: list[Path]) -> None:
    if not len(cases):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in tally.refused.items()) or "no images"
        raise ScoringError(
            f"nothing to grade in {', '.join(map(str, inputs))} ({reasons}): give PNG or JPEG patches, or slides"
        )


def _renamed_slides(slides: list[SlideFound], names: Names) -> list[SlideFound]:
    """Under their pseudonyms in the order of these, which tells nothing of their own names."""
    renamed = [one._replace(file=names.file(one.file, one.case_id), case_id=names.case(one.case_id)) for one in slides]
    return sorted(renamed, key=lambda one: one.case_id) if names.pseudonymised else renamed


def _write_tables(cases: pd.DataFrame, slides: list[SlideRow], folder: Path) -> None:
    write_csv(cases, folder / CASES)
    if slides:
        write_csv(pd.DataFrame(slides), folder / SLIDES)


def _summary(
    served: Served, cases: pd.DataFrame, tally: Tally, maps: int, precision: Precision, names: Names
) -> PatchesPart:
    return {
        "model": _shown_name(served, names),
        "model_id": served.logged.get("model_id"),
        "data_set": served.point["data_set"],
        "data": asdict(served.data) if served.data else None,
        "positive_class": served.point["positive_class"],
        "threshold": served.point["threshold"],
        **reading_entry(recorded_reading(served.point, served.point["data_set"])),
        "precision": precision,
        "pseudonymised": names.pseudonymised,
        "patches": int(cases["patches"].sum()),
        "cases": len(cases),
        "positive": int(cases["positive"].sum()),
        "maps": maps,
        "notes": tally.notes,
        "set_aside": {
            reason: {"count": count, "files": tally.rejected[reason]} for reason, count in sorted(tally.refused.items())
        },
    }


def _shown_name(served: Served, names: Names) -> str:
    """What the model is called in what may be shared: a folder's path tells of the machine, and of whose it is."""
    own = not names.pseudonymised or served.name.startswith(SCHEMES)
    return served.name if own else "a folder"


def _of_slides(slides: list[SlideRow], reading: SlideOptions) -> SlidesPart:
    if not slides:
        return {}
    return {"slides": len(slides), "patch_mpp": reading.mpp, "overlays": list(dict.fromkeys(reading.overlays))}


def _grade_patches(
    served: Served,
    grader: Grader,
    inputs: list[Path],
    names: Names,
    tally: Tally,
    pictures: PatchPictures | None,
    writer: pq.ParquetWriter,
    limit: MemberLimit,
    namer: CaseNamer,
) -> None:
    images = find_images(inputs, lambda reason, file: tally.reject(reason, names.file(file)), limit, tally.note, namer)
    renamed = (one._replace(file=names.file(one.file, one.case_id), case_id=names.case(one.case_id)) for one in images)
    with tqdm(
        desc=f"predict {served.point['data_set']}", unit="patch", unit_scale=True, delay=0.1, file=sys.stderr
    ) as bar:
        while chunk := list(islice(renamed, chunk_size(served.patch_size))):
            rows, patches = _decoded(served, chunk, tally)
            bar.update(len(chunk))
            if rows:
                part = graded_rows(rows, patches, grader.probabilities(patches), served.point["threshold"])
                writer.write_table(pa.Table.from_pandas(part, SCHEMA, preserve_index=False))
                tally.add(part)
                if pictures:
                    pictures.add(rows, patches)
    for line in namer.remarks:
        LOG.warning("%s", line)


def _decoded(served: Served, chunk: list[Found], tally: Tally) -> tuple[list[tuple[Any, ...]], NDArray[np.uint8]]:
    """Rows and pixels, (patches, height, width, 3), of those images that can be graded."""
    block = np.empty((len(chunk), *served.patch_size, 3), np.uint8)
    rows: list[tuple[Any, ...]] = []
    for one in chunk:
        try:
            patch = decode_patch(one.read(), block[len(rows)])
            block[len(rows)] = _fitted(patch, served)
        except MemberRejected as reason:
            tally.reject(str(reason), one.file)
            continue
        rows.append((one.file, one.case_id, one.x, one.y, patch.shape[1], patch.shape[0]))
    return rows, block[: len(rows)]


def _fitted(patch: Patch, served: Served) -> Patch:
    """As ingest brings patches to the size that the model was trained on."""
    return (resize_patch if served.point["resized"] else pad_patch)(patch, served.patch_size)
