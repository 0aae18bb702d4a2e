"""What a file answers beside what Keras answers, on the same test patches, by case."""

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
from histopipe.evaluation.intervals import Estimate, draw_fewer, estimate, informative_cases
from histopipe.evaluation.metrics import Numbers, Predictions, measure
from histopipe.evaluation.thresholds import decide
from histopipe.export.record import Parity
from histopipe.export.source import Grader

TOLERANCE = 1e-4  # of a probability, between float32 and Keras
COMPARED = ("roc_auc", "sensitivity", "specificity")


def answers(grade: Grader, store: PatchStore, rows: Rows, batch: int, title: str) -> NDArray[np.float64]:
    """Probabilities of the patches at `rows`, (rows,); batches are filled up, so that all are of one size."""
    found = np.empty(len(rows), np.float64)
    with tqdm(total=len(rows), desc=title, unit="patch", file=sys.stderr) as bar:
        for start in range(0, len(rows), batch):
            part = store.gather(rows[start : start + batch])
            filled = np.zeros((batch, *part.shape[1:]), np.uint8)
            filled[: len(part)] = part
            found[start : start + len(part)] = grade(filled)[: len(part)]
            bar.update(len(part))
    return found


def parity(
    reference: Numbers, found: Numbers, patches: pd.DataFrame, threshold: float, resamples: int, seed: int
) -> Parity:
    """Metrics of both, their differences and the decisions that changed, with intervals by case.

    Args:
        reference: Keras' probabilities, (patches,).
        found: the file's.
        patches: columns `label` and `case_id`.
        threshold: at which patches are called positive.
        resamples: how many resamples of cases stand behind each interval.
        seed: decides which cases they draw.

    Returns:
        `keras` and `file`: metrics; `change`: the file's less Keras', each with interval and p; `decisions_changed`: a
        share with its interval; `probability_difference`: `max` and `mean` of the absolute one; `cases`, `patches`.

    Raises:
        ExportError: the file gives something else than probabilities.
    """
    if not ((found >= 0) & (found <= 1)).all():
        raise ExportError("the file gives answers that are no probabilities on test patches: export in float32")
    both = [
        Predictions.of(patches["label"], values, decide(values, threshold), patches["case_id"])
        for values in (reference, found)
    ]
    values = [measure(predictions) for predictions in both]
    keras, file = (CaseMetrics(predictions, COMPARED) for predictions in both)
    changed = file.minus(keras)
    changes = Flips([changed[name] for name in COMPARED], seed, resamples).estimates()
    draws = draw_fewer(both[0].case_count, resamples, seed)
    cases = informative_cases(both[0])["accuracy"]
    apart = np.abs(reference - found)
    return {
        "keras": {name: values[0][name] for name in COMPARED},
        "file": {name: values[1][name] for name in COMPARED},
        "change": dict(zip(COMPARED, changes, strict=True)),
        "decisions_changed": _share(both[0], both[0].decisions != both[1].decisions, draws, cases),
        "probability_difference": {"max": float(apart.max()), "mean": float(apart.mean())},
        "cases": both[0].case_count,
        "patches": len(patches),
    }


def _share(predictions: Predictions, which: NDArray[np.bool_], draws: Numbers, cases: float) -> Estimate:
    """The share of patches that are `which`, with its interval."""
    sums, sizes = predictions.per_case(which), predictions.per_case(np.ones(len(which)))
    return estimate(float(which.mean()), draws @ sums / (draws @ sizes), cases, 0.5 / len(which))


def require_agreement(found: Parity, quantize: str, describe: Callable[[], str]) -> None:
    """Check that a float32 file gives what Keras gives.

    Raises:
        ExportError: it is off by more than `TOLERANCE`.
    """
    apart = found["probability_difference"]["max"]
    if quantize == "none" and apart > TOLERANCE:
        raise ExportError(
            f"{describe()} is off by {apart:.2g} from Keras on a test patch, more than {TOLERANCE:g}: nothing was "
            "written; try another --format"
        )
