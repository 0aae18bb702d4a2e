"""Curves and tables for the figures of an evaluation and for DVC's plots."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn import metrics as sklearn_metrics

from histopipe.evaluation.metrics import CALIBRATION_BINS, Predictions, calibration_bins

MAX_POINTS = 1000


def roc_table(predictions: Predictions) -> pd.DataFrame:
    """Compute the ROC curve: columns `fpr,tpr,threshold`, at most 1000 points."""
    false_positives, hits, thresholds = sklearn_metrics.roc_curve(predictions.labels, predictions.probabilities)
    thresholds[0] = 1.0  # scikit-learn writes infinity, which plots can't show
    return thin_curve(pd.DataFrame({"fpr": false_positives, "tpr": hits, "threshold": thresholds}))


def precision_recall_table(predictions: Predictions) -> pd.DataFrame:
    """Compute the precision-recall curve: columns `recall,precision,threshold`, recall rising, at most 1000 points."""
    precision, recall, thresholds = sklearn_metrics.precision_recall_curve(
        predictions.labels, predictions.probabilities, drop_intermediate=True
    )
    table = pd.DataFrame({"recall": recall[:-1], "precision": precision[:-1], "threshold": thresholds})
    return thin_curve(table[::-1].reset_index(drop=True))


def confusion_table(predictions: Predictions, classes: tuple[str, str]) -> pd.DataFrame:
    """Return the actual and the predicted class of every patch, which DVC's `confusion` template counts."""
    names = np.array(classes)
    return pd.DataFrame({"actual": names[predictions.labels], "predicted": names[predictions.decisions]})


def calibration_table(predictions: Predictions) -> pd.DataFrame:
    """Compute the mean probability (`predicted`) and the share of positives (`observed`) per bin; skip empty bins."""
    bins = calibration_bins(predictions.probabilities)
    patches = pd.DataFrame({"bin": bins, "probability": predictions.probabilities, "label": predictions.labels})
    grouped = patches.groupby("bin")
    return (
        pd.DataFrame(
            {
                "low": np.arange(CALIBRATION_BINS) / CALIBRATION_BINS,
                "high": np.arange(1, CALIBRATION_BINS + 1) / CALIBRATION_BINS,
                "predicted": grouped["probability"].mean(),
                "observed": grouped["label"].mean(),
                "patches": grouped.size(),
            },
            index=range(CALIBRATION_BINS),
        )
        .dropna()
        .astype({"patches": int})
    )


def thin_curve(curve: pd.DataFrame) -> pd.DataFrame:
    """Keep at most `MAX_POINTS` rows, evenly spaced, including the first and the last."""
    if len(curve) <= MAX_POINTS:
        return curve
    rows = np.linspace(0, len(curve) - 1, MAX_POINTS).round().astype(int)
    return curve.iloc[rows].reset_index(drop=True)


def report_text(predictions: Predictions, classes: tuple[str, str]) -> str:
    """Format scikit-learn's classification report, with the positive class in the last row of the two."""
    text: str = sklearn_metrics.classification_report(
        predictions.labels,
        predictions.decisions,
        labels=[0, 1],
        target_names=list(classes),
        digits=3,
        zero_division=0.0,
    )
    return text
