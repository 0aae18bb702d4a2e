"""The cost of intervals: 2,000 resamples of cases for every metric, at the size of Kaggle's archive.

The other way, resample by resample through scikit-learn's functions with sample weights, is timed on a few resamples in
the same run and extrapolated; the ratio is its seconds over ours. Seconds are processor time of one core. Cases are
drawn as in `benchmarks.coverage`, with as many patches as the archive has.

    python -m benchmarks.intervals
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import click
import numpy as np

from benchmarks.coverage import IDC, draw
from benchmarks.measuring import report
from histopipe.evaluation.intervals import estimate_metrics, resample_cases
from histopipe.evaluation.metrics import Numbers, Predictions

PUBLISHED_CASES, PUBLISHED_PATCHES = 279, 277_524
SEED = 42


def full_size() -> Predictions:
    """Draw predictions for as many cases and patches as the whole archive has."""
    random = np.random.default_rng(SEED)
    drawn = draw(replace(IDC, patches=1.1 * PUBLISHED_PATCHES / PUBLISHED_CASES), PUBLISHED_CASES, random)
    kept = np.sort(random.choice(len(drawn.labels), PUBLISHED_PATCHES, replace=False))
    return replace(drawn, labels=drawn.labels[kept], logits=drawn.logits[kept], cases=drawn.cases[kept]).predict(0.5)


def by_scikit_learn(predictions: Predictions, weights: Numbers) -> None:
    """Compute scikit-learn's metrics, one resample after the other; `weights` is (resamples, patches)."""
    from sklearn import metrics

    ranked = (metrics.roc_auc_score, metrics.average_precision_score, metrics.brier_score_loss)
    called = (metrics.balanced_accuracy_score, metrics.f1_score, metrics.accuracy_score, metrics.precision_score)
    for drawn in weights:
        for metric in ranked:
            metric(predictions.labels, predictions.probabilities, sample_weight=drawn)
        for metric in called:
            metric(predictions.labels, predictions.decisions, sample_weight=drawn)
        for label in (0, 1):
            metrics.recall_score(predictions.labels, predictions.decisions, sample_weight=drawn, pos_label=label)


def seconds(work: Callable[[], object]) -> float:
    """Measure the processor time of one core, whatever else runs on it."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # several BLAS threads would busily wait for each other on a loaded machine
        began = time.process_time()
        work()
        return time.process_time() - began


@click.command()
@click.option("--resamples", default=2000, show_default=True)
@click.option("--sampled", default=3, show_default=True, help="Resamples that scikit-learn is timed on.")
def main(resamples: int, sampled: int) -> None:
    """Time both ways; the last line is JSON and holds `ratio`."""
    predictions = full_size()
    ours = seconds(lambda: estimate_metrics(predictions, resamples, SEED))
    weights = resample_cases(predictions.case_count, sampled, SEED)[:, predictions.cases]
    theirs = seconds(lambda: by_scikit_learn(predictions, weights)) / sampled * resamples
    report(
        "intervals",
        ratio=round(theirs / ours, 1),
        patches=len(predictions.labels),
        cases=predictions.case_count,
        resamples=resamples,
        seconds=round(ours, 1),
        reckoned_seconds_by_scikit_learn=round(theirs, 1),
    )


if __name__ == "__main__":
    main()
