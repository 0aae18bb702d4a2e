"""Comparison of a file's predictions with those of Keras, on the same test patches, by case."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.core.errors import ExportError
from histopipe.data.store import PatchStore, Rows
from histopipe.evaluation.case_parts import CaseMetrics
from histopipe.evaluation.differences import Flips
from histopipe.evaluation.intervals import Estimate, estimate, informative_cases, resample_fewer_cases
from histopipe.evaluation.metrics import Numbers, Predictions, compute_metrics
from histopipe.evaluation.thresholds import decide
from histopipe.export.record import Parity
from histopipe.export.source import PredictFunction

TOLERANCE = 1e-4  # of a probability, between float32 and Keras
COMPARED = ("roc_auc", "sensitivity", "specificity")


def predict_rows(
    predict: PredictFunction, store: PatchStore, rows: Rows, batch: int, title: str
) -> NDArray[np.float64]:
    """Predict the patches at `rows` of a store; batches are filled up, so that all have the same size."""
    probabilities = np.empty(len(rows), np.float64)
    with tqdm(total=len(rows), desc=title, unit="patch", file=sys.stderr) as bar:
        for start in range(0, len(rows), batch):
            part = store.gather(rows[start : start + batch])
            full_batch = np.zeros((batch, *part.shape[1:]), np.uint8)
            full_batch[: len(part)] = part
            probabilities[start : start + len(part)] = predict(full_batch)[: len(part)]
            bar.update(len(part))
    return probabilities


def measure_parity(
    reference: Numbers, exported: Numbers, patches: pd.DataFrame, threshold: float, resamples: int, seed: int
) -> Parity:
    """Compute the metrics of both, their differences and the share of changed decisions, with intervals by case.

    Args:
        reference: probabilities by Keras, (patches,).
        exported: probabilities by the file, (patches,).
        patches: columns `label` and `case_id`.
        threshold: the probability from which a patch is called positive.
        resamples: the number of resamples of cases for each interval.
        seed: the seed of the resamples.

    Returns:
        `keras` and `file`: the metrics of both; `change`: the file's metric less Keras', each with interval and
        p-value; `decisions_changed`: the share of patches, with its interval; `probability_difference`: the largest
        (`max`) and the mean (`mean`) absolute difference; `cases` and `patches`: their numbers.

    Raises:
        ExportError: the file returns something other than probabilities.
    """
    if not ((exported >= 0) & (exported <= 1)).all():
        raise ExportError("the file returns values that are no probabilities on test patches: export in float32")
    both = [
        Predictions.from_arrays(patches["label"], values, decide(values, threshold), patches["case_id"])
        for values in (reference, exported)
    ]
    values = [compute_metrics(predictions) for predictions in both]
    keras, file = (CaseMetrics(predictions, COMPARED) for predictions in both)
    changed = file.minus(keras)
    changes = Flips([changed[name] for name in COMPARED], seed, resamples).estimates()
    draws = resample_fewer_cases(both[0].case_count, resamples, seed)
    cases = informative_cases(both[0])["accuracy"]
    differences = np.abs(reference - exported)
    return {
        "keras": {name: values[0][name] for name in COMPARED},
        "file": {name: values[1][name] for name in COMPARED},
        "change": dict(zip(COMPARED, changes, strict=True)),
        "decisions_changed": _share(both[0], both[0].decisions != both[1].decisions, draws, cases),
        "probability_difference": {"max": float(differences.max()), "mean": float(differences.mean())},
        "cases": both[0].case_count,
        "patches": len(patches),
    }


def _share(predictions: Predictions, which: NDArray[np.bool_], draws: Numbers, cases: float) -> Estimate:
    """Compute the share of patches that are `which`, with its interval."""
    sums, sizes = predictions.per_case(which), predictions.per_case(np.ones(len(which)))
    return estimate(float(which.mean()), draws @ sums / (draws @ sizes), cases, 0.5 / len(which))


def require_agreement(parity: Parity, quantize: str, describe: Callable[[], str]) -> None:
    """Check that a float32 file predicts as Keras does.

    Raises:
        ExportError: a probability differs by more than `TOLERANCE`.
    """
    largest = parity["probability_difference"]["max"]
    if quantize == "none" and largest > TOLERANCE:
        raise ExportError(
            f"{describe()} is off by {largest:.2g} from Keras on a test patch, more than {TOLERANCE:g}: nothing was "
            "written; try another --format"
        )
