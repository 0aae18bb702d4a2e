"""What ingest found: counts, and everything it set aside with the reason."""

from __future__ import annotations

import pandas as pd

from histopipe.core.cases.ids import look_alikes
from histopipe.data.store import SetAsideFiles, StoreReport
from histopipe.ingest.datasets import OTHER_MAGNIFICATION, Dataset
from histopipe.ingest.datasets.matching import Matching
from histopipe.ingest.plan import HARMLESS, NOT_A_PATCH, SECOND_COPY, SetAside

MAX_LISTED_BY_NAME = 20  # of what is set aside by the thousand, as Kaggle's 277,524 second copies: else by folder


def build_report(
    dataset: Dataset, index: pd.DataFrame, set_aside: SetAside, members: int, matching: Matching | None = None
) -> StoreReport:
    """Return counts for `report.json`; `matching` tells how a manifest's names were found."""
    height, width = dataset.patch_size
    report: StoreReport = {
        "dataset": dataset.name,
        "members": members,
        "patches": len(index),
        "cases": int(index["case_id"].nunique()),
        "positive": int(index["label"].sum()),
        "classes": list(dataset.classes),
        "patch_size": [height, width],
        "image_size": dataset.image_size or max(height, width),
        "undersized": int(((index["width"] < width) | (index["height"] < height)).sum()),
        "second_copies": len(set_aside.files.get(SECOND_COPY, [])),
        "look_alike_cases": look_alikes(index["case_id"].unique()),
        "same_pixels_in_two_cases": _shared_pixels(index),
        "bad": set_aside.bad,
        "set_aside": {reason: _listed(reason, files) for reason, files in sorted(set_aside.files.items())},
    }
    if dataset.case_reading:
        report["case_reading"] = dataset.case_reading
    if matching:
        report["manifest"] = matching.counts()
    if dataset.published:
        report["published"] = {name: count for name, count in vars(dataset.published).items() if count is not None}
    return report


def _shared_pixels(index: pd.DataFrame) -> int:
    """Patches whose very pixels also occur in another case: a hint at a slide filed twice."""
    return int((index.groupby("digest")["case_id"].transform("nunique") > 1).sum())


def _listed(reason: str, files: list[str]) -> SetAsideFiles:
    entry: SetAsideFiles = {"count": len(files), "bad": reason not in HARMLESS}
    if reason not in (SECOND_COPY, OTHER_MAGNIFICATION, NOT_A_PATCH) or len(files) <= MAX_LISTED_BY_NAME:
        return {**entry, "files": files}
    folders = pd.Series([file.rsplit("/", 2)[0] for file in files]).value_counts(sort=False)
    return {**entry, "folders": {str(folder): int(count) for folder, count in folders.items()}}
