"""Means over variants, and how sure one can be of them.

Folds. Every case is tested once, each by another model. Scores of different models don't share a scale, so no curve is
drawn through all of them: a metric is measured in each fold and then averaged. The interval resamples whole cases
within each fold, measures every fold anew and averages again. A resample draws one case fewer than the fold has, since
drawing all n of a small group understates the variance by (n - 1) / n (Rao & Wu 1988,
doi:10.1080/01621459.1988.10478591); the t quantile has as many degrees of freedom as informative cases (were
they of equal size) less one per fold.

The interval is for these models on further cases like the tested ones. It does not cover what another draw of training
cases or another seed would have given: the folds' models share most of their training cases, and no unbiased estimate
of that variance exists (Bengio & Grandvalet 2004, JMLR 5:1089). The standard deviation over folds is given beside it
as a description, and is not divided by the root of their number for the same reason.

Seeds. Each seed divides the cases anew, so test sets overlap and models share training cases: neither pooling nor a
standard error of the mean would be right. What is given is the mean, the standard deviation and the range over seeds,
which say how far a number moves by the luck of split and training alone; the intervals by case stay those of each seed.

Differences between architectures are taken variant by variant, on the same cases, so that what makes a fold hard for
all of them cancels; the cases of all folds are turned round together, see `evaluation.differences`. They are not
corrected for how many pairs there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histopipe.evaluation.case_parts import ByCase, averaged
from histopipe.evaluation.differences import Flips
from histopipe.evaluation.intervals import (
    Measured,
    absolute_sum,
    cases_behind,
    draw_fewer,
    half_steps,
    informative_cases,
    leave_one_out,
    measured,
)
from histopipe.evaluation.metrics import METRICS, Numbers, Predictions, calibration_gaps, measure, measure_resamples

Folds = Sequence[Predictions]


def fold_means(folds: Folds, resamples: int, seed: int) -> dict[str, Measured]:
    """Each metric's mean over the folds with its interval; all None where a fold leaves the metric undefined."""
    spread, means = resampled_means(folds, resamples, seed), mean_metrics(folds)
    shifts, steps = _shifts(folds), [half_steps(fold) for fold in folds]
    found = {
        name: measured(
            means[name],
            spread[name],
            cases_behind(shifts[name], degrees(folds, name) + 1),
            min(step[name] for step in steps) / len(folds),
        )
        for name in METRICS
    }
    gaps = _mean_gaps(folds, [np.ones((1, fold.case_count)) for fold in folds])[0]
    resampled_gaps = _mean_gaps(folds, _draws(folds, resamples, seed))
    cases = degrees(folds, "calibration_error") + 1
    return found | {"calibration_error": absolute_sum(gaps, resampled_gaps, cases)}


def _mean_gaps(folds: Folds, draws: Sequence[Numbers]) -> Numbers:
    """What each bin of each fold adds to the mean calibration error, with its sign: (resamples, folds x bins)."""
    gaps = [calibration_gaps(fold, drawn) for fold, drawn in zip(folds, draws, strict=True)]
    return np.concatenate(gaps, axis=1) / len(folds)


def _shifts(folds: Folds) -> dict[str, Numbers]:
    """How far leaving out each case of each fold moves the mean over folds, by metric, (cases of all folds,)."""
    left_out = [measure_resamples(fold, leave_one_out(fold.case_count)) for fold in folds]
    return {
        name: np.concatenate([each[name] - _mean(each[name]) for each in left_out]) / len(folds) for name in METRICS
    }


def _mean(values: Numbers) -> float:
    """The mean of those that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def _draws(folds: Folds, resamples: int, seed: int) -> list[Numbers]:
    """How often each resample draws each case, (resamples, cases) per fold."""
    return [draw_fewer(fold.case_count, resamples, [seed, place]) for place, fold in enumerate(folds)]


def mean_metrics(folds: Folds) -> dict[str, float]:
    """Each metric measured per fold, then averaged; NaN where a fold leaves it undefined."""
    found = [measure(fold) for fold in folds]
    return {name: float(np.mean([each[name] for each in found])) for name in METRICS}


def resampled_means(folds: Folds, resamples: int, seed: int) -> dict[str, Numbers]:
    """Each metric's mean over the folds in every resample, (resamples,); NaN where it isn't defined in a fold.

    The draws depend on the seed, the fold's place and its number of cases alone, so that two architectures that were
    tested on the same folds are resampled alike.
    """
    draws = _draws(folds, resamples, seed)
    found = [measure_resamples(fold, drawn) for fold, drawn in zip(folds, draws, strict=True)]
    return {name: np.mean([each[name] for each in found], axis=0) for name in METRICS}


def degrees(folds: Folds, metric: str) -> float:
    """Degrees of freedom of a mean over folds; 0 where one of them rests on a single case and tells no spread."""
    cases = [informative_cases(fold)[metric] for fold in folds]
    return 0 if min(cases) < 2 else sum(cases) - len(cases)


def fold_differences(first: Folds, second: Folds, resamples: int, seed: int) -> dict[str, Measured]:
    """Each metric's mean difference, first less second, with interval and p-value; both tested on the same folds."""
    apart = [ByCase(one).less(ByCase(other)) for one, other in zip(first, second, strict=True)]
    found = [averaged([fold[name] for fold in apart]) for name in METRICS]
    return dict(zip(METRICS, Flips(found, seed, resamples).measured(), strict=True))


def spread(values: Sequence[float | None]) -> Measured:
    """Mean, standard deviation, lowest and highest of one metric over variants; None where one isn't defined."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return dict.fromkeys(("mean", "sd", "min", "max"))
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)), "sd": deviation, "min": min(known), "max": max(known)}
