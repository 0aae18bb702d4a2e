"""Whether every split has enough cases of both classes, and what would do where it hasn't."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pandas as pd

from histopipe.core.errors import SplitError
from histopipe.data.splitting.membership import SPLITS

LOG = logging.getLogger(__name__)
FEW = 3  # cases of a class in a split, below which a single odd one decides

_ROLES = {
    "train": "the network learns the class from",
    "validation": "threshold and calibration rest on",
    "test": "every result rests on",
}


def cases_by_class(counts: pd.DataFrame) -> dict[str, list[str]]:
    """Return the cases with negative and those with positive patches; a case may be among both.

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
        summary: as `histopipe.data.splitting.summary.summarise` gives it.
        dataset: the data set's name, or that of a variant of its split.
        remedy: what the message ends with.

    Raises:
        SplitError: one has not.
    """
    for name in SPLITS:
        row = summary.loc[name]
        if row["positive"] == 0 or row["positive"] == row["patches"]:
            missing = "no patches" if row["patches"] == 0 else "a class missing"
            raise SplitError(
                f"{dataset}: {name} would have {missing} ({row['cases']:.0f} cases, {row['patches']:.0f} patches, "
                f"{row['positive']:.0f} positive): {remedy}"
            )


def remedy_of(counts: pd.DataFrame, parts: int, remembered: bool) -> str:
    """Return what helps where whole cases can't give every part both classes.

    Args:
        counts: columns `patches` and `positives` by case id, joined cases as one.
        parts: how many parts need a case of each class: three splits.
        remembered: whether known cases kept their places, so that the division might be another without.
    """
    held = {name: len(cases) for name, cases in cases_by_class(counts).items()}
    short = {name: parts - count for name, count in held.items() if count < parts}
    if short:
        told = [f"{held[name]} of {len(counts)} cases have {name} patches: add {lack}" for name, lack in short.items()]
        return f"each split needs a case of either class, and only {'; '.join(told)}"
    if remembered:
        return (
            "known cases keep their split, and new ones don't bring what is missing: add one that does, or change "
            "`seed`, which divides all cases anew"
        )
    return "add cases of both classes, or change the shares under `split`"


def warn_of_few_cases(dataset: str, membership: pd.DataFrame, index: pd.DataFrame, first: Mapping[str, str]) -> None:
    """Say in one line which splits hold a class in fewer than `FEW` cases.

    Args:
        dataset: the data set's name.
        membership: the split's table by case.
        index: of the store.
        first: the group's first id by each joined case, which counts once.
    """
    table = index[["case_id", "label"]].drop_duplicates()
    splits = table["case_id"].map(membership.set_index("case_id")["split"])
    table = table.assign(split=splits, case_id=table["case_id"].map(lambda case: first.get(case, case)))
    counts = table.dropna().drop_duplicates().groupby(["split", "label"]).size()
    few = [
        f"{name} has {label} patches in {counts.get((name, place), 0)} of its cases, which {_ROLES[name]}"
        for name in SPLITS
        for place, label in enumerate(("negative", "positive"))
        if 0 < counts.get((name, place), 0) < FEW
    ]
    if few:
        LOG.warning("%s: %s: add cases, or expect intervals that say little", dataset, "; ".join(few))
