"""Numbers too good to be true."""

from __future__ import annotations

from collections.abc import Sequence

from histopipe.core.params import Params
from histopipe.data.leakage import leaky_state
from histopipe.ingest.datasets import get_dataset, list_datasets
from histopipe.reporting.comparison.record import Implausible, ModelRow


def implausible(dataset: str, rows: Sequence[ModelRow], params: Params) -> Implausible | None:
    """Which models have a ROC AUC by case that, on this data set, points to a leak rather than to skill.

    Nothing is known of synthetic slides and of data sets of the user's own, and a split that is marked as leaking needs
    no second warning.

    Returns:
        The `limit` and the `architectures` above it; None where there are none.
    """
    used = params.dataset(dataset)
    if used.source == "synthetic" or used.manifest is not None or dataset not in list_datasets():
        return None
    limit = get_dataset(dataset).implausible_auc
    if limit is None:
        return None
    found = [
        row["architecture"]
        for row in rows
        if leaky_state(row.get("leaky")) is not True and (row["test"]["roc_auc"]["value"] or 0.0) > limit
    ]
    return {"limit": limit, "architectures": found} if found else None
