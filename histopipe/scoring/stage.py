"""Grading new patches: in bounded memory, however many there are."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import expit
from tqdm import tqdm

from histopipe.colours import COLOURS, colour_statistics
from histopipe.datasets import MemberRejected
from histopipe.errors import InferenceError, ScoringError
from histopipe.files import replaced_folder, write_json
from histopipe.images import Patch, decode_patch, pad_patch, resize_patch
from histopipe.inference import BATCH_SIZE, WORTH_COMPILING, CompiledNetwork, Precision, is_quicker
from histopipe.paths import Workspace
from histopipe.prediction import BATCH_SIZE as KERAS_BATCH
from histopipe.prediction import logit_network
from histopipe.scoring.inputs import Found, find_images
from histopipe.scoring.maps import draw_maps
from histopipe.scoring.model import Served, load_served

PREDICTIONS, CASES, SUMMARY, MAPS = "predictions.parquet", "cases.csv", "summary.json", "maps"
CHUNK = 4096  # patches graded and written together
NAMED = 100  # unusable images that the summary names, of each reason

SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "case_id": pa.string(),
        "x": pa.int32(),
        "y": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "probability": pa.float64(),
        "decision": pa.int8(),
        **dict.fromkeys(COLOURS, pa.float32()),
    }
)


@dataclass
class Tally:
    """What was seen so far, by case and by reason: all that is held of patches that were written."""

    parts: list[pd.DataFrame] = field(default_factory=list)
    rejected: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[str] = field(default_factory=Counter)

    def reject(self, reason: str, file: str) -> None:
        """Note an image that can't be graded."""
        self.refused[reason] += 1
        if len(self.rejected[reason]) < NAMED:
            self.rejected[reason].append(file)

    def add(self, rows: pd.DataFrame) -> None:
        """Note graded patches: a few numbers of each case."""
        by_case = rows.assign(placed=rows["x"].notna()).groupby("case_id", sort=False)
        sums = by_case[["decision", "probability", "placed"]].sum()
        self.parts.append(sums.assign(patches=by_case.size()))

    def table(self) -> pd.DataFrame:
        """One row per case, in the order in which they came."""
        if not self.parts:
            return pd.DataFrame()
        sums = pd.concat(self.parts).groupby(level=0, sort=False).sum()
        shares = {
            "positive_share": sums["decision"] / sums["patches"],
            "mean_probability": sums["probability"] / sums["patches"],
        }
        table = sums.assign(**shares).rename(columns={"decision": "positive"}).reset_index()
        return table[["case_id", "patches", "positive", *shares, "placed"]]


def score(
    inputs: list[Path], model: str, dataset: str, out: Path, workspace: Workspace, precision: Precision = "float32"
) -> dict[str, Any]:
    """Grade every image of the inputs; write a table of patches, one of cases, maps and a summary into `out`.

    Args:
        inputs: image files, folders of them, and archives.
        model: as `histopipe.scoring.model.load_served` takes it.
        dataset: the model's data set.
        out: the folder to write, whole or not at all.
        workspace: whose tracking store is asked.
        precision: of the arithmetic; bfloat16 where the CPU has it.

    Returns:
        The content of `summary.json`.

    Raises:
        ScoringError: no such model or input, or none of the images can be graded.
        ArchiveError: an archive can't be read.
        InferenceError: the CPU has no bfloat16.
    """
    return grade_inputs(load_served(model, dataset, workspace), inputs, out, precision)


def grade_inputs(served: Served, inputs: list[Path], out: Path, precision: Precision = "float32") -> dict[str, Any]:
    """As `score`, by a model that is loaded already."""
    tally = Tally()
    with replaced_folder(out) as folder:
        _write_predictions(served, find_images(inputs, tally.reject), tally, folder / PREDICTIONS, precision)
        cases = tally.table()
        if not len(cases):
            reasons = ", ".join(f"{count} x {reason}" for reason, count in tally.refused.items()) or "no images"
            raise ScoringError(
                f"nothing to grade in {', '.join(map(str, inputs))} ({reasons}): give PNG or JPEG patches"
            )
        cases.to_csv(folder / CASES, index=False)
        maps = draw_maps(cases, folder / PREDICTIONS, served.point, folder / MAPS)
        summary = _summary(served, cases, tally, len(maps), precision)
        write_json(folder / SUMMARY, summary)
    return summary


def _summary(served: Served, cases: pd.DataFrame, tally: Tally, maps: int, precision: Precision) -> dict[str, Any]:
    return {
        "model": served.name,
        "model_id": served.model_id,
        "data_set": served.point["data_set"],
        "positive_class": served.point["positive_class"],
        "threshold": served.point["threshold"],
        "precision": precision,
        "patches": int(cases["patches"].sum()),
        "cases": len(cases),
        "positive": int(cases["positive"].sum()),
        "maps": maps,
        "set_aside": {
            reason: {"count": count, "files": tally.rejected[reason]} for reason, count in tally.refused.items()
        },
    }


def _write_predictions(served: Served, images: Iterator[Found], tally: Tally, path: Path, precision: Precision) -> None:
    grade = None
    with (
        pq.ParquetWriter(path, SCHEMA) as writer,
        tqdm(desc=f"predict {served.point['data_set']}", unit="patch", unit_scale=True, file=sys.stderr) as bar,
    ):
        while chunk := list(islice(images, CHUNK)):
            grade = grade or _grader(served, precision, many=len(chunk) == CHUNK)
            rows, patches = _decoded(served, chunk, tally)
            bar.update(len(chunk))
            if rows:
                table = pd.DataFrame(rows, columns=SCHEMA.names[:6])
                table["probability"] = expit(grade(patches))
                table["decision"] = (table["probability"] >= served.point["threshold"]).astype(np.int8)
                table[COLOURS] = colour_statistics(patches)
                writer.write_table(pa.Table.from_pandas(table, SCHEMA, preserve_index=False))
                tally.add(table)


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


def _grader(served: Served, precision: Precision, many: bool) -> Any:
    """A function from patches to log odds: compiled where that is quicker or asked for, else Keras'."""
    network = logit_network(served.network)
    if precision != "float32" or (many and is_quicker(WORTH_COMPILING)):
        try:
            compiled = CompiledNetwork(network, served.patch_size, precision)
        except InferenceError:
            if precision != "float32":
                raise
        else:
            return lambda patches: compiled.predict(
                (patches[start : start + BATCH_SIZE] for start in range(0, len(patches), BATCH_SIZE)), len(patches)
            ).astype(np.float64)

    def by_keras(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
        count = math.ceil(len(patches) / KERAS_BATCH) * KERAS_BATCH  # filled up: another size is traced anew
        filled = np.zeros((count, *patches.shape[1:]), np.uint8)
        filled[: len(patches)] = patches
        parts = [
            network.predict_on_batch(filled[start : start + KERAS_BATCH]) for start in range(0, count, KERAS_BATCH)
        ]
        return np.concatenate(parts)[: len(patches), 0].astype(np.float64)

    return by_keras
