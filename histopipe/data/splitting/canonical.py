"""The published division of the IDC cases: 84 train, 29 validation, 49 test.

Lists of Janowczyk & Madabhushi 2016 (PMID 27563488), as published in choosehappy/public at commit 8560e48.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

from histopipe.core.errors import SplitError


def canonical_cases() -> pd.Series:
    """Return the split name per listed case id."""
    path = resources.files("histopipe.ingest.datasets") / "idc_canonical_cases.csv"
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype=str).set_index("case_id")["split"]


def assign_canonical(dataset: str, cases: pd.DataFrame, unlisted: str) -> pd.Series:
    """Assign cases as listed; cases in no list train or, with `unlisted: drop`, take no part.

    Raises:
        SplitError: the data set has no published lists, or none of the listed cases of some split is in the data.
    """
    if dataset != "idc":
        raise SplitError(f"split.scheme canonical: only idc has published lists, not {dataset}; use grouped")
    listed = canonical_cases().reindex(cases.index)
    assigned = listed.fillna("train") if unlisted == "train" else listed.dropna()
    for split in ("test", "validation", "train"):
        if split not in set(assigned):
            raise SplitError(
                f"split.scheme canonical: none of the published {split} cases is in the data; "
                "use the complete archive or `scheme: grouped`"
            )
    return assigned.rename("split")
