"""The content of `report.json`: counts of what was ingested, and the unused members with reasons."""

from __future__ import annotations

import pandas as pd

from histopipe.core.cases.ids import look_alikes
from histopipe.data.store import SetAsideFiles, StoreRecord
from histopipe.ingest.datasets import OTHER_MAGNIFICATION, Dataset
from histopipe.ingest.datasets.matching import FileMatching
from histopipe.ingest.plan import HARMLESS, NOT_A_PATCH, SECOND_COPY, UnusedMembers

MAX_LISTED_BY_NAME = 20  # per reason; more (277,524 second copies on Kaggle) are counted by folder


def build_report(
    dataset: Dataset, index: pd.DataFrame, unused: UnusedMembers, members: int, matching: FileMatching | None = None
) -> StoreRecord:
    """Build the content of `report.json`.

    Args:
        dataset: the data set.
        index: one row per ingested patch.
        unused: the members that weren't ingested.
        members: number of members in the archive.
        matching: how the names in a manifest were matched, if there is one.
    """
    height, width = dataset.patch_size
    report: StoreRecord = {
        "dataset": dataset.name,
        "members": members,
        "patches": len(index),
        "cases": int(index["case_id"].nunique()),
        "positive": int(index["label"].sum()),
        "classes": list(dataset.classes),
        "patch_size": [height, width],
        "image_size": dataset.image_size or max(height, width),
        "undersized": int(((index["width"] < width) | (index["height"] < height)).sum()),
        "second_copies": len(unused.files.get(SECOND_COPY, [])),
        "look_alike_cases": look_alikes(index["case_id"].unique()),
        "same_pixels_in_two_cases": _count_shared_pixels(index),
        "bad": unused.bad_count,
        "set_aside": {reason: _make_reason_entry(reason, files) for reason, files in sorted(unused.files.items())},
    }
    if dataset.case_reading:
        report["case_reading"] = dataset.case_reading
    if matching:
        report["manifest"] = matching.count_matches()
    if dataset.published:
        report["published"] = {name: count for name, count in vars(dataset.published).items() if count is not None}
    return report


def _count_shared_pixels(index: pd.DataFrame) -> int:
    """Count the patches that another case has too, pixel by pixel; they hint at a slide with two ids."""
    return int((index.groupby("digest")["case_id"].transform("nunique") > 1).sum())


def _make_reason_entry(reason: str, files: list[str]) -> SetAsideFiles:
    entry: SetAsideFiles = {"count": len(files), "bad": reason not in HARMLESS}
    if reason not in (SECOND_COPY, OTHER_MAGNIFICATION, NOT_A_PATCH) or len(files) <= MAX_LISTED_BY_NAME:
        return {**entry, "files": files}
    folders = pd.Series([file.rsplit("/", 2)[0] for file in files]).value_counts(sort=False)
    return {**entry, "folders": {str(folder): int(count) for folder, count in folders.items()}}
