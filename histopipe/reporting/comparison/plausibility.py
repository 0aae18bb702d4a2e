"""A check for results that are too good to be true."""

from __future__ import annotations

from collections.abc import Sequence

from histopipe.core.params import Params
from histopipe.data.leakage import leaky_state
from histopipe.ingest.datasets import get_dataset, list_datasets
from histopipe.reporting.comparison.record import ImplausibleModels, ModelRow


def implausible_models(dataset: str, rows: Sequence[ModelRow], params: Params) -> ImplausibleModels | None:
    """Find models with a ROC AUC by case that suggests a leak, given the limit of the data set.

    There is no limit for synthetic slides and for a user's own data set. Models that are marked as leaky are skipped,
    since they need no second warning.

    Returns:
        The `limit` and the `architectures` above it; None if there are none.
    """
    used = params.dataset(dataset)
    if used.source == "synthetic" or used.manifest is not None or dataset not in list_datasets():
        return None
    limit = get_dataset(dataset).implausible_auc
    if limit is None:
        return None
    architectures = [
        row["architecture"]
        for row in rows
        if leaky_state(row.get("leaky")) is not True and (row["test"]["roc_auc"]["value"] or 0.0) > limit
    ]
    return {"limit": limit, "architectures": architectures} if architectures else None
