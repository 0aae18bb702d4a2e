"""Means over variants, and their uncertainty.

Folds. Every case is tested once, in each fold by another model. Predictions of different models don't share a scale, so
no curve is drawn through all of them: a metric is measured in each fold and then averaged. The interval resamples whole
cases within each fold, measures every fold again and averages again. A resample draws one case fewer than the fold has,
since drawing all n of a small group understates the variance by (n - 1) / n (Rao & Wu 1988,
doi:10.1080/01621459.1988.10478591); the t quantile has as many degrees of freedom as informative cases (were they of
equal size) less one per fold.

The interval is for these models on further cases like the tested ones. It does not cover the effect of another draw of
training cases or of another seed: the folds' models share most of their training cases, and no unbiased estimate of
that variance exists (Bengio & Grandvalet 2004, JMLR 5:1089). The standard deviation over folds is reported with it as a
description, and is not divided by the root of their number for the same reason.

Seeds. Each seed divides the cases differently, so test sets overlap and models share training cases: neither pooling
nor a standard error of the mean would be right. The mean, the standard deviation and the range over seeds are reported,
which show how far a number moves by chance in split and training alone; the intervals by case stay those of each seed.

Differences between architectures are taken variant by variant, on the same cases, so that what makes a fold hard for
all of them cancels; the cases of all folds are flipped together, see `evaluation.differences`. They are not corrected
for the number of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histopipe.evaluation.case_parts import CaseMetrics, mean_over_folds
from histopipe.evaluation.differences import Flips
from histopipe.evaluation.intervals import (
    Estimate,
    effective_cases_from_spread,
    estimate,
    estimate_absolute_sum,
    half_steps,
    informative_cases,
    leave_one_out,
    resample_fewer_cases,
)
from histopipe.evaluation.metrics import (
    METRICS,
    Numbers,
    Predictions,
    calibration_gaps,
    compute_metrics,
    compute_metrics_of_resamples,
)

Folds = Sequence[Predictions]


def fold_means(folds: Folds, resamples: int, seed: int) -> dict[str, Estimate]:
    """Compute each metric's mean over the folds with its interval; all None where a fold leaves it undefined."""
    spread, means = resampled_means(folds, resamples, seed), mean_metrics(folds)
    shifts, steps = _shifts(folds), [half_steps(fold) for fold in folds]
    intervals = {
        name: estimate(
            means[name],
            spread[name],
            effective_cases_from_spread(shifts[name], degrees(folds, name) + 1),
            min(step[name] for step in steps) / len(folds),
        )
        for name in METRICS
    }
    gaps = _mean_gaps(folds, [np.ones((1, fold.case_count)) for fold in folds])[0]
    resampled_gaps = _mean_gaps(folds, _draws(folds, resamples, seed))
    cases = degrees(folds, "calibration_error") + 1
    return intervals | {"calibration_error": estimate_absolute_sum(gaps, resampled_gaps, cases)}


def _mean_gaps(folds: Folds, draws: Sequence[Numbers]) -> Numbers:
    """Compute the signed share of each bin of each fold in the mean calibration error: (resamples, folds x bins)."""
    gaps = [calibration_gaps(fold, drawn) for fold, drawn in zip(folds, draws, strict=True)]
    return np.concatenate(gaps, axis=1) / len(folds)


def _shifts(folds: Folds) -> dict[str, Numbers]:
    """Compute how far leaving out each case of each fold moves the mean, by metric, (cases of all folds,)."""
    left_out = [compute_metrics_of_resamples(fold, leave_one_out(fold.case_count)) for fold in folds]
    return {
        name: np.concatenate([metrics[name] - _mean(metrics[name]) for metrics in left_out]) / len(folds)
        for name in METRICS
    }


def _mean(values: Numbers) -> float:
    """Return the mean of the defined values; NaN where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def _draws(folds: Folds, resamples: int, seed: int) -> list[Numbers]:
    """Draw the cases of every resample: how often each is drawn, (resamples, cases) per fold."""
    return [resample_fewer_cases(fold.case_count, resamples, [seed, number]) for number, fold in enumerate(folds)]


def mean_metrics(folds: Folds) -> dict[str, float]:
    """Measure each metric per fold and average it; NaN where a fold leaves it undefined."""
    measured_folds = [compute_metrics(fold) for fold in folds]
    return {name: float(np.mean([metrics[name] for metrics in measured_folds])) for name in METRICS}


def resampled_means(folds: Folds, resamples: int, seed: int) -> dict[str, Numbers]:
    """Compute each metric's mean over the folds in every resample, (resamples,); NaN where it isn't defined.

    The draws depend on the seed, the fold's number and its number of cases alone, so that two architectures that were
    tested on the same folds get the same resamples.
    """
    draws = _draws(folds, resamples, seed)
    resampled = [compute_metrics_of_resamples(fold, drawn) for fold, drawn in zip(folds, draws, strict=True)]
    return {name: np.mean([metrics[name] for metrics in resampled], axis=0) for name in METRICS}


def degrees(folds: Folds, metric: str) -> float:
    """Return the degrees of freedom of a mean over folds; 0 where a fold has a single informative case."""
    cases = [informative_cases(fold)[metric] for fold in folds]
    return 0 if min(cases) < 2 else sum(cases) - len(cases)


def fold_differences(first: Folds, second: Folds, resamples: int, seed: int) -> dict[str, Estimate]:
    """Compute each metric's mean difference, first less second, with interval and p-value, on the same folds."""
    by_fold = [CaseMetrics(left).minus(CaseMetrics(right)) for left, right in zip(first, second, strict=True)]
    by_metric = [mean_over_folds([fold[name] for fold in by_fold]) for name in METRICS]
    return dict(zip(METRICS, Flips(by_metric, seed, resamples).estimates(), strict=True))


def spread(values: Sequence[float | None]) -> Estimate:
    """Compute mean, standard deviation, lowest and highest of a metric over variants; None where one isn't defined."""
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        return dict.fromkeys(("mean", "sd", "min", "max"))
    deviation = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
    return {"mean": float(np.mean(defined)), "sd": deviation, "min": min(defined), "max": max(defined)}
