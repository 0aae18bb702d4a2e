"""The predict stage: predict new patches and slides in bounded memory, however many there are."""

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
from histopipe.core.errors import PredictionError
from histopipe.core.files import write_json
from histopipe.core.outputs.claims import OutputFolder, ensure_claimed
from histopipe.core.tables import write_csv
from histopipe.core.workspace import Workspace
from histopipe.inference.case_naming import CaseNamer
from histopipe.inference.inputs import ImageInput, SlideInput, distinct_slides, find_images, find_slides
from histopipe.inference.maps import draw_maps
from histopipe.inference.model import SCHEMES, ServedModel, load_served_model
from histopipe.inference.patch_predictor import PatchPredictor
from histopipe.inference.pictures import FOLDER as TISSUE
from histopipe.inference.pictures import PatchPictures
from histopipe.inference.pseudonyms import Names, OwnNames, write_key_table
from histopipe.inference.record import SUMMARY, PatchesPart, PredictionSummary, SlideRow, SlidesPart
from histopipe.inference.slide_prediction import MAPS, SlideOptions, SlidePredictor
from histopipe.inference.table import SCHEMA, PredictionTally, chunk_size, convert_to_csv, prediction_rows, sort_table
from histopipe.ingest.archives.limits import DEFAULT_LIMIT, MemberLimit
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch, decode_patch, pad_patch, resize_patch
from histopipe.networks.openvino import Precision

LOG = logging.getLogger(__name__)

COMMAND = "predict"  # its name in the marker of its folders
PREDICTIONS, CASES, SLIDES = "predictions.parquet", "cases.csv", "slides.csv"

Format = Literal["parquet", "csv"]


def predict(
    inputs: list[Path],
    model: str,
    dataset: str,
    out: Path | OutputFolder,
    workspace: Workspace,
    precision: Precision = "float32",
    table: Format = "parquet",
    slide_options: SlideOptions | None = None,
    names: Names | None = None,
    key_table: Path | None = None,
    limit: MemberLimit = DEFAULT_LIMIT,
) -> PredictionSummary:
    """Predict all images and slides of the inputs; write a table of patches, one of cases, maps and a summary.

    Args:
        inputs: image files, whole slides, folders of both, and archives.
        model: the model's address, in any form that `load_served_model` takes.
        dataset: the model's data set.
        out: the folder to write, completely or not at all: from `histopipe.core.outputs.claims.claim_folder`, or a
            path, where only an earlier output of `predict` is replaced.
        workspace: the checkout with the settings of the tracking store.
        precision: the number type of the computation; bfloat16 needs a CPU that supports it.
        table: the format of the table of patches.
        slide_options: options for reading slides, and the overlays to write.
        names: the names of cases and files in all outputs; their own names by default.
        key_table: the file for the table of pseudonyms; it is written before `out`.
        limit: the number of members that an archive or a folder may have.

    Returns:
        The content of `summary.json`.

    Raises:
        PredictionError: there is no such model or input, none of the images can be predicted, or there are slides and
            the resolution for cutting them into tiles is unknown.
        ArchiveError: an archive can't be read.
        InferenceError: the CPU has no bfloat16.
        PseudonymError: the table of names can't be written.
        OutputError: `out` holds other files, or it would be read as input.

    Example:
        >>> summary = predict([Path("new.zip")], "champion", "idc", Path("scores/new"), Workspace(Path.cwd()))
        >>> round(summary["positive"] / summary["patches"], 2)
        0.27
    """
    slide_options = slide_options or SlideOptions()
    _require_resolution(find_slides(inputs, limit), slide_options, dataset)
    served = load_served_model(model, dataset, workspace)
    namer = case_namer(served, workspace)
    return predict_inputs(served, inputs, out, precision, table, slide_options, names, key_table, limit, namer)


def case_namer(served: ServedModel, workspace: Workspace | None = None) -> CaseNamer:
    """Return the namer of the cases of a model's new patches.

    Raises:
        SourceError: the data set's manifest in the workspace can't be read.
    """
    classes = [served.point[key] for key in ("negative_class", "positive_class") if key in served.point]
    dataset = served.point["data_set"]
    # cases are read as in training, so that cases it has seen are recognised and pseudonyms stay the same
    return CaseNamer.for_data_set(
        dataset, classes, workspace, recorded_reading(served.point, dataset), is_listed(served.point)
    )


def predict_inputs(
    served: ServedModel,
    inputs: list[Path],
    out: Path | OutputFolder,
    precision: Precision = "float32",
    table: Format = "parquet",
    slide_options: SlideOptions | None = None,
    names: Names | None = None,
    key_table: Path | None = None,
    limit: MemberLimit = DEFAULT_LIMIT,
    namer: CaseNamer | None = None,
) -> PredictionSummary:
    """Predict all inputs with a model that is already loaded; see `predict`.

    Args:
        served: the model.
        inputs, out, precision, table, slide_options, names, key_table, limit: see `predict`.
        namer: names the cases; by default the one of the model's data set.

    Returns:
        The content of `summary.json`.
    """
    names, slide_options, namer = names or OwnNames(), slide_options or SlideOptions(), namer or case_namer(served)
    output = ensure_claimed(out, COMMAND, {"the input": inputs})
    slides = find_slides(inputs, limit)
    _require_resolution(slides, slide_options, served.point["data_set"])
    predictor, tally = PatchPredictor(served, precision), PredictionTally(by_name=names.pseudonymised)
    pictures = PatchPictures(served.point["resized"]) if slide_options.tissue else None
    with output.written() as folder:
        slide_predictor = SlidePredictor(
            predictor.probabilities, served.patch_size, served.point, slide_options, folder, tally
        )
        with pq.ParquetWriter(folder / PREDICTIONS, SCHEMA) as writer:
            _predict_patches(served, predictor, inputs, names, tally, pictures, writer, limit, namer)
            taken = {names.originals.get(case, case) for case in tally.cases()}
            slide_rows = slide_predictor.predict(_renamed_slides(distinct_slides(slides, taken), names), writer)
        cases = tally.table()
        _require_some(cases, tally, inputs)
        if pictures:
            pictures.draw(folder / TISSUE)
        if names.pseudonymised:
            sort_table(folder / PREDICTIONS, cases)
        _write_tables(cases, slide_rows, folder)
        own_maps = [slide["case_id"] for slide in slide_rows]
        maps = len(draw_maps(cases, folder / PREDICTIONS, served.point, folder / MAPS, own_maps)) + len(own_maps)
        summary: PredictionSummary = {
            **_summary(served, cases, tally, maps, precision, names),
            **_slides_part(slide_rows, slide_options),
            "naming": dict(sorted((kind, count) for kind, count in namer.counts.items() if count)),
        }
        write_json(folder / SUMMARY, summary)
        if table == "csv":
            convert_to_csv(folder / PREDICTIONS)
        if key_table:
            write_key_table(names, key_table)
    return summary


def _require_resolution(slides: list[SlideInput], slide_options: SlideOptions, dataset: str) -> None:
    if slides and slide_options.mpp is None:
        raise PredictionError(
            f"the pixel size of {dataset}'s patches is unknown, so slides can't be cut into tiles: "
            f"give --mpp, in micrometres per pixel, or `{dataset}: {{mpp: …}}` in params.yaml"
        )
    if not slides and slide_options.overlays:
        raise PredictionError("overlays are drawn over whole slides, and there are none: leave out --overlay")


def _require_some(cases: pd.DataFrame, tally: PredictionTally, inputs: list[Path]) -> None:
    if not len(cases):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in tally.refused.items()) or "no images"
        raise PredictionError(
            f"nothing to predict in {', '.join(map(str, inputs))} ({reasons}): give PNG or JPEG patches, or slides"
        )


def _renamed_slides(slides: list[SlideInput], names: Names) -> list[SlideInput]:
    """Rename slides; pseudonyms are also sorted, so that the order reveals nothing about the original names."""
    renamed = [
        slide._replace(file=names.file(slide.file, slide.case_id), case_id=names.case(slide.case_id))
        for slide in slides
    ]
    return sorted(renamed, key=lambda slide: slide.case_id) if names.pseudonymised else renamed


def _write_tables(cases: pd.DataFrame, slides: list[SlideRow], folder: Path) -> None:
    write_csv(cases, folder / CASES)
    if slides:
        write_csv(pd.DataFrame(slides), folder / SLIDES)


def _summary(
    served: ServedModel, cases: pd.DataFrame, tally: PredictionTally, maps: int, precision: Precision, names: Names
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


def _shown_name(served: ServedModel, names: Names) -> str:
    """Return the model's name for outputs that may be shared: a folder's path could reveal the machine and its user."""
    own = not names.pseudonymised or served.name.startswith(SCHEMES)
    return served.name if own else "a folder"


def _slides_part(slides: list[SlideRow], slide_options: SlideOptions) -> SlidesPart:
    if not slides:
        return {}
    return {
        "slides": len(slides),
        "patch_mpp": slide_options.mpp,
        "overlays": list(dict.fromkeys(slide_options.overlays)),
    }


def _predict_patches(
    served: ServedModel,
    predictor: PatchPredictor,
    inputs: list[Path],
    names: Names,
    tally: PredictionTally,
    pictures: PatchPictures | None,
    writer: pq.ParquetWriter,
    limit: MemberLimit,
    namer: CaseNamer,
) -> None:
    images = find_images(inputs, lambda reason, file: tally.reject(reason, names.file(file)), limit, tally.note, namer)
    renamed = (
        image._replace(file=names.file(image.file, image.case_id), case_id=names.case(image.case_id))
        for image in images
    )
    with tqdm(
        desc=f"predict {served.point['data_set']}", unit="patch", unit_scale=True, delay=0.1, file=sys.stderr
    ) as bar:
        while chunk := list(islice(renamed, chunk_size(served.patch_size))):
            rows, patches = _decode(served, chunk, tally)
            bar.update(len(chunk))
            if rows:
                part = prediction_rows(rows, patches, predictor.probabilities(patches), served.point["threshold"])
                writer.write_table(pa.Table.from_pandas(part, SCHEMA, preserve_index=False))
                tally.add(part)
                if pictures:
                    pictures.add(rows, patches)
    for line in namer.remarks:
        LOG.warning("%s", line)


def _decode(
    served: ServedModel, chunk: list[ImageInput], tally: PredictionTally
) -> tuple[list[tuple[Any, ...]], NDArray[np.uint8]]:
    """Decode images; return rows and pixels, (patches, height, width, 3), of those that can be predicted."""
    block = np.empty((len(chunk), *served.patch_size, 3), np.uint8)
    rows: list[tuple[Any, ...]] = []
    for image in chunk:
        try:
            patch = decode_patch(image.read(), block[len(rows)])
            block[len(rows)] = _fit(patch, served)
        except MemberRejected as reason:
            tally.reject(str(reason), image.file)
            continue
        rows.append((image.file, image.case_id, image.x, image.y, patch.shape[1], patch.shape[0]))
    return rows, block[: len(rows)]


def _fit(patch: Patch, served: ServedModel) -> Patch:
    """Resize or pad a patch to the model's size, as ingest does."""
    return (resize_patch if served.point["resized"] else pad_patch)(patch, served.patch_size)
