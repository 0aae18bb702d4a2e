"""Checks that every split has enough cases of both classes, and remedies where it hasn't."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pandas as pd

from histopipe.core.errors import SplitError
from histopipe.data.splitting.membership import SPLITS

LOG = logging.getLogger(__name__)
FEW = 3  # cases of a class in a split, below which a single unusual one decides

_ROLES = {
    "train": "the network learns the class from",
    "validation": "threshold and calibration rest on",
    "test": "every result rests on",
}


def cases_by_class(counts: pd.DataFrame) -> dict[str, list[str]]:
    """Return the cases with negative and those with positive patches; a case may be in both lists.

    Args:
        counts: columns `patches` and `positives` by case id.
    """
    return {
        "negative": [str(case) for case in counts.index[counts["positives"] < counts["patches"]]],
        "positive": [str(case) for case in counts.index[counts["positives"] > 0]],
    }


def require_classes(summary: pd.DataFrame, dataset: str, remedy: str = "add cases of both classes") -> None:
    """Check that every split of a summary has patches of both classes.

    Args:
        summary: the table of `histopipe.data.splitting.summary.summarise`.
        dataset: the data set's name, or that of a variant of its split.
        remedy: the end of the message.

    Raises:
        SplitError: a split has no patches, or lacks a class.
    """
    for name in SPLITS:
        row = summary.loc[name]
        if row["positive"] == 0 or row["positive"] == row["patches"]:
            missing = "no patches" if row["patches"] == 0 else "a class missing"
            raise SplitError(
                f"{dataset}: {name} would have {missing} ({row['cases']:.0f} cases, {row['patches']:.0f} patches, "
                f"{row['positive']:.0f} positive): {remedy}"
            )


def class_remedy(counts: pd.DataFrame, parts: int, remembered: bool) -> str:
    """Return the remedy where whole cases can't give every part both classes.

    Args:
        counts: columns `patches` and `positives` by case id, joined cases as one.
        parts: the number of parts that need a case of each class: three splits.
        remembered: whether known cases kept their split, so that the division might otherwise be different.
    """
    held = {name: len(cases) for name, cases in cases_by_class(counts).items()}
    short = {name: parts - count for name, count in held.items() if count < parts}
    if short:
        lines = [f"{held[name]} of {len(counts)} cases have {name} patches: add {lack}" for name, lack in short.items()]
        return f"each split needs a case of either class, and only {'; '.join(lines)}"
    if remembered:
        return (
            "known cases keep their split, and the new ones don't fill the gap: add cases that do, or change `seed`, "
            "which divides all cases again"
        )
    return "add cases of both classes, or change the shares under `split`"


def warn_of_few_cases(dataset: str, membership: pd.DataFrame, index: pd.DataFrame, first: Mapping[str, str]) -> None:
    """Warn in one line of splits that hold a class in fewer than `FEW` cases.

    Args:
        dataset: the data set's name.
        membership: the split's table by case.
        index: the index of the store.
        first: the first id of the group of each joined case; a group counts once.
    """
    table = index[["case_id", "label"]].drop_duplicates()
    splits = table["case_id"].map(membership.set_index("case_id")["split"])
    table = table.assign(split=splits, case_id=table["case_id"].map(lambda case: first.get(case, case)))
    counts = table.dropna().drop_duplicates().groupby(["split", "label"]).size()
    few = [
        f"{name} has {label} patches in {counts.get((name, number), 0)} of its cases, which {_ROLES[name]}"
        for name in SPLITS
        for number, label in enumerate(("negative", "positive"))
        if 0 < counts.get((name, number), 0) < FEW
    ]
    if few:
        LOG.warning("%s: %s: add cases, or expect wide intervals", dataset, "; ".join(few))
