"""Metrics of validation from a network's logits."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score


def validation_metrics(labels: NDArray[Any], logits: NDArray[Any]) -> dict[str, float]:
    """Compute loss, ROC AUC and accuracy under their names in the history; labels and logits are (patches,)."""
    return {
        "validation/loss": float(log_loss(labels, expit(logits), labels=[0, 1])),
        "validation/roc_auc": float(roc_auc_score(labels, logits)),
        "validation/accuracy": float(((logits >= 0) == labels).mean()),
    }
