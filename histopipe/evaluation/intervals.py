"""95 % intervals from resampling whole cases.

Patches of one case resemble each other, so the case is the unit of resampling: a resample draws one case fewer than
there are, with replacement, each with all its patches (drawing all n understates the variance by (n - 1) / n, Rao & Wu
1988, doi:10.1080/01621459.1988.10478591). The spread of a metric over resamples is computed on the logit scale, where
it is more symmetric and stays within [0, 1], and widened by a t quantile for the number of cases. The effective number
of cases is smaller where their sizes differ (Kish 1965, "Survey sampling"; Carter, Schnepel & Steigerwald 2017,
"Asymptotic behavior of a t-test robust to cluster heterogeneity") and where a few cases make up the whole spread
(`effective_cases_from_spread`). The coverage of these intervals was simulated: docs/evaluation.md.

Special cases:

* With fewer than two cases to resample the spread is unknown, and the interval is [0, 1].
* An estimate of exactly 0 or 1, such as that of a perfect model, has no spread. Its far end is where n equal cases
  would occur one time in forty: 0.025 ** (1 / n), the bound of Clopper & Pearson 1934. Cases that agree exactly on a
  value between 0 and 1 have no spread either. There the same share of all cases may be like these, and the rest at 0
  or at 1.
* A metric that isn't defined (precision if nothing is called positive) has no interval: its ends are None.
* The calibration error is a sum of absolute values, which chance only increases: see `estimate_absolute_sum`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from histopipe.evaluation.metrics import METRICS, Numbers, Predictions, calibration_gaps, compute_metrics_of_resamples

LEVEL = 0.95
LOWER_RISK = 0.04  # for the lower end of an absolute sum, whose upper end hardly ever misses if there is only noise
SHOWN_KURTOSIS = 0.8  # factor on degrees of freedom: few cases show a lower kurtosis than their distribution has
LEAST_CASES = 4.0  # least number of cases for a t quantile: with fewer, an interval would say nothing
SHARES = ("balanced_accuracy", "f1", "sensitivity", "specificity", "accuracy", "precision")
WIDEST = 1.15  # most that few cases behind the spread widen intervals of shares: more adds width, hardly coverage
NO_SPREAD = 1e-12  # smaller differences are rounding errors

Estimate = dict[str, float | None]  # value, low, high
MetricFunction = Callable[[Predictions, Numbers], dict[str, Numbers]]


def interval_of(estimate: Estimate) -> tuple[float, float, float]:
    """Return value, lower end and upper end of an estimate as numbers; NaN if the metric isn't defined."""
    value, low, high = (math.nan if (end := estimate[name]) is None else end for name in ("value", "low", "high"))
    return value, low, high


def estimate_metrics(
    predictions: Predictions, resamples: int, seed: int, metrics: MetricFunction = compute_metrics_of_resamples
) -> dict[str, Estimate]:
    """Compute every metric with its 95 % interval.

    Args:
        predictions: predictions of patches.
        resamples: number of resamples for each interval.
        seed: seed of the resampling; the same seed gives the same intervals on every machine.
        metrics: function that computes metrics, including the calibration error, on resamples; all metrics by default.

    Returns:
        `{"value": .., "low": .., "high": ..}` per metric, each None if the metric isn't defined.

    Example:
        >>> predictions = Predictions.from_arrays([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.8], [0, 1, 1, 1], list("aabb"))
        >>> estimate_metrics(predictions, resamples=200, seed=0)["accuracy"]["value"]
        0.75
    """
    count = predictions.case_count
    draws = np.concatenate([resample_fewer_cases(count, resamples, seed), leave_one_out(count)])
    informative, steps = informative_cases(predictions), half_steps(predictions)
    values, spread = metrics(predictions, np.ones((1, count))), metrics(predictions, draws)
    intervals = {
        name: estimate(
            float(value[0]),
            spread[name][:resamples],
            effective_cases_from_spread(
                spread[name][resamples:], informative[name], _least_cases(name, informative[name])
            ),
            steps[name],
        )
        for name, value in values.items()
    }
    return intervals | {"calibration_error": _calibration_error(predictions, draws, informative["calibration_error"])}


def _calibration_error(predictions: Predictions, draws: Numbers, informative: float) -> Estimate:
    """Estimate the calibration error; the last of `draws` leave out one case each."""
    count = predictions.case_count
    with np.errstate(invalid="ignore"):  # a single case can't be left out
        gaps, drawn = (calibration_gaps(predictions, drawn) for drawn in (np.ones((1, count)), draws))
    resampled, left_out = drawn[:-count], drawn[-count:]
    cases = min(
        effective_cases_from_spread(sums, informative) for sums in (np.abs(left_out).sum(axis=1), left_out.sum(axis=1))
    )
    return estimate_absolute_sum(gaps[0], resampled, cases)


def leave_one_out(cases: int) -> Numbers:
    """Return draws that leave out one case each and contain all others once, (cases, cases)."""
    return np.ones((cases, cases)) - np.eye(cases)


def _least_cases(metric: str, informative: float) -> float:
    """Return the least number of cases for a metric's spread; for shares it widens the t quantile by `WIDEST`."""
    if metric not in SHARES or informative < 2:
        return LEAST_CASES
    chance = (1 + LEVEL) / 2
    widest = WIDEST * stats.t.ppf(chance, informative - 1)
    freedom = optimize.brentq(lambda freedom: stats.t.ppf(chance, freedom) - widest, 0.5, informative, xtol=1e-3)
    return max(LEAST_CASES, float(freedom) + 1)


def effective_cases_from_spread(left_out: Numbers, informative: float, least: float = LEAST_CASES) -> float:
    """Compute the effective number of cases behind a metric's spread.

    A variance s^2 from n cases is itself uncertain: its own variance is s^4 (k - 1) / n, where k is the kurtosis of the
    cases' contributions. A chi-squared distribution has that variance with 2 n / (k - 1) degrees of freedom
    (Satterthwaite 1946, doi:10.2307/3002019). These are few if a few cases make up the spread, as is the case for the
    Brier score if positive patches are rare. A sample without the rarest cases has too low a kurtosis, so the degrees
    of freedom are multiplied by `SHOWN_KURTOSIS`, which was chosen by simulation.

    Args:
        left_out: the metric without each case in turn, (cases,); NaN where it isn't defined.
        informative: effective number of cases by their sizes.
        least: lower bound of the result.

    Returns:
        At most `informative`, and at least `least` unless `informative` is smaller.
    """
    shifts = left_out[~np.isnan(left_out)]
    shifts = shifts - shifts.mean() if len(shifts) else shifts
    square = float((shifts**2).mean()) if len(shifts) else 0.0
    if np.sqrt(square) < NO_SPREAD:
        return informative
    kurtosis = float((shifts**4).mean()) / square**2
    freedom = SHOWN_KURTOSIS * 2 * len(shifts) / max(kurtosis - 1, NO_SPREAD)
    return min(informative, max(least, freedom + 1))


def half_steps(predictions: Predictions) -> dict[str, float]:
    """Return half of the smallest step by which each metric can differ from 0 or 1.

    A share of patches changes by a patch, the ROC AUC by a pair of a positive and a negative patch, average precision
    by the loss at the last positive from a single false alarm. Squared errors have no smallest step.
    """
    patches, positives = len(predictions.labels), int(predictions.labels.sum())
    negatives = patches - positives
    particular = {
        "roc_auc": 0.5 / max(1, positives * negatives),
        "average_precision": 0.5 / max(1, positives * max(negatives, positives + 1)),
        "brier": NO_SPREAD,
    }
    return dict.fromkeys(METRICS, 0.5 / patches) | particular


def resample_cases(cases: int, resamples: int, seed: int | Sequence[int], draws: int | None = None) -> Numbers:
    """Draw cases with replacement.

    The draws use the generator's raw numbers, which numpy keeps the same across versions (NEP 19), unlike those of its
    distributions. Their remainder favours no case by more than one part in 2**55.

    Args:
        cases: number of cases.
        resamples: number of resamples.
        seed: seed of the generator.
        draws: cases per resample; by default as many as there are cases.

    Returns:
        How often each resample drew each case, (resamples, cases).
    """
    count = cases if draws is None else draws
    raw = np.random.Philox(seed).random_raw(resamples * count)
    drawn = (raw % np.uint64(cases)).astype(np.int64).reshape(resamples, count)
    cell = drawn + cases * np.arange(resamples)[:, np.newaxis]
    return np.bincount(cell.ravel(), minlength=resamples * cases).reshape(resamples, cases).astype(np.float64)


def resample_fewer_cases(cases: int, resamples: int, seed: int | Sequence[int]) -> Numbers:
    """Draw resamples of one case fewer than there are; return how often each case was drawn, (resamples, cases)."""
    return resample_cases(cases, resamples, seed, max(1, cases - 1))


def informative_cases(predictions: Predictions) -> dict[str, float]:
    """Return the effective number of cases for each metric.

    A case without positive patches says nothing about sensitivity, and metrics that compare the classes depend on the
    rarer kind of case. Where every patient has a single label, as in BreakHis, this decides the interval's width.
    """
    with_positives = effective_cases(predictions, predictions.labels == 1)
    with_negatives = effective_cases(predictions, predictions.labels == 0)
    called = effective_cases(predictions, predictions.decisions == 1)
    everything = effective_cases(predictions, predictions.labels >= 0)
    both = min(with_positives, with_negatives)
    particular = {
        "roc_auc": both,
        "average_precision": both,
        "balanced_accuracy": both,
        "f1": with_positives,
        "sensitivity": with_positives,
        "specificity": with_negatives,
        "precision": called,
    }
    return {name: particular.get(name, everything) for name in METRICS}


def effective_cases(predictions: Predictions, patches: NDArray[np.bool_]) -> float:
    """Return the number of equally large cases with the same information: (sum of sizes)² / sum of squares (Kish 1965).

    Args:
        predictions: predictions of patches.
        patches: mask of the patches that count, (patches,).
    """
    sizes = predictions.per_case(patches)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def estimate(value: float, resampled: Numbers, cases: float, half_step: float) -> Estimate:
    """Return a metric's value with its interval.

    Args:
        value: the metric on all patches.
        resampled: the metric on each resample; NaN where it isn't defined.
        cases: effective number of cases behind the metric.
        half_step: half of the smallest possible distance of the metric from 0 or 1, see `half_steps`.
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    defined = resampled[~np.isnan(resampled)]
    low, high = interval(value, defined, cases, half_step)
    return {"value": float(value), "low": low, "high": high}


def interval(value: float, resampled: Numbers, cases: float, half_step: float) -> tuple[float, float]:
    """Compute the interval around `value`, a number in [0, 1]; arguments as for `estimate`, without NaN."""
    if cases < 2 or len(resampled) < 2:
        return 0.0, 1.0
    if value in (0.0, 1.0) or np.ptp(resampled) < NO_SPREAD:
        bound = ((1 - LEVEL) / 2) ** (1 / cases)
        return float(value * bound), float(1 - (1 - value) * bound)
    reach = _reach(_logit(resampled, half_step), cases)
    centre = np.log(value / (1 - value))
    return float(_expit(centre - reach)), float(_expit(centre + reach))


def estimate_absolute_sum(terms: Numbers, resampled: Numbers, cases: float) -> Estimate:
    """Return the sum of the absolute values of `terms`, with its interval.

    Noise in a term increases the sum if the true term is near 0, and resampling increases it once more. So the lower
    end is found by inverting a test: it is the smallest multiple of the observed terms that noise, estimated from the
    resamples, raises to the observed sum one time in 25. At the upper end noise may have added nothing, or even hidden
    what all terms have in common. There the spread is that of the sum of absolute values or, if larger, of the net sum.

    Args:
        terms: the terms on all patches, (terms,).
        resampled: the terms on each resample, (resamples, terms).
        cases: effective number of cases behind them.
    """
    value = float(np.abs(terms).sum())
    if cases < 2 or len(resampled) < 2:
        return {"value": value, "low": 0.0, "high": 1.0}
    reach = max(_reach(np.abs(resampled).sum(axis=1), cases), _reach(resampled.sum(axis=1), cases))
    low = value * _least_share(terms, _widening(cases) * (resampled - terms))
    return {"value": value, "low": low, "high": min(1.0, value + reach)}


def _least_share(terms: Numbers, noise: Numbers) -> float:
    """Find the multiple of the terms, 0 to 1, that noise raises to their whole absolute sum at `LOWER_RISK`."""
    value = np.abs(terms).sum()

    def beyond(share: float) -> float:
        return float(np.quantile(np.abs(share * terms + noise).sum(axis=1), 1 - LOWER_RISK) - value)

    if beyond(0.0) >= 0:
        return 0.0
    return 1.0 if beyond(1.0) <= 0 else float(optimize.brentq(beyond, 0.0, 1.0, xtol=1e-6))


def _widening(cases: float) -> float:
    """Return the ratio of the t quantile for a number of cases to the normal quantile."""
    return float(stats.t.ppf((1 + LEVEL) / 2, cases - 1) / stats.norm.ppf((1 + LEVEL) / 2))


def _reach(resampled: Numbers, cases: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, cases - 1) * np.std(resampled, ddof=1))


def _logit(shares: Numbers, half_step: float) -> Numbers:
    """Return log odds; a share of 0 or 1 is replaced by half a step, so that a perfect resample stays finite."""
    inside = np.clip(shares, half_step, 1 - half_step)
    return np.log(inside / (1 - inside))


def _expit(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
