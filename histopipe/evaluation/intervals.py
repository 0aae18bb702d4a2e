"""95 % intervals from resampling whole cases.

Patches of one case resemble each other, so the case is the unit that chance draws: a resample draws one case fewer
than there are, with replacement, each with all its patches (drawing all n understates the variance by (n - 1) / n,
Rao & Wu 1988, doi:10.1080/01621459.1988.10478591). The spread of a metric over resamples is taken on the logit scale,
where it is nearer to symmetric and can't leave [0, 1], and widened by a t quantile for the few cases it rests on. Cases
of unequal size count for fewer than they are (Kish 1965, "Survey sampling"; Carter, Schnepel & Steigerwald 2017,
"Asymptotic behavior of a t-test robust to cluster heterogeneity"), and so do cases of which a few make up the whole
spread: see `cases_behind`. How often such intervals hold the truth was simulated: docs/evaluation.md.

What can't be resampled is answered by what is known of it:

* Fewer than two cases to resample: nothing is known of the spread, the interval is [0, 1].
* An estimate of exactly 0 or 1, as of a perfect model, has no spread. Its far end is where all n cases alike
  would be seen one time in forty: 0.025 ** (1 / n), the bound of Clopper & Pearson 1934. Between 0 and 1 cases that
  agree exactly have none either: so large a share of cases may be like these, and the rest at 0 or at 1.
* A metric that isn't defined (precision where nothing is called positive) has no interval: three times None.
* Calibration error is a sum of absolute values, to which chance only adds: see `absolute_sum`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from histopipe.evaluation.metrics import METRICS, Numbers, Predictions, calibration_gaps, measure_resamples

LEVEL = 0.95
LOWER_RISK = 0.04  # of an absolute sum: its upper end hardly ever misses where chance is all there is
SHOWN_KURTOSIS = 0.8  # of the freedom that a sample's kurtosis leaves: few cases show less of it than their law has
LEAST_CASES = 4.0  # that a spread counts for, however few it comes from: below, a t quantile says nothing at all
SHARES = ("balanced_accuracy", "f1", "sensitivity", "specificity", "accuracy", "precision")
WIDEST = 1.15  # that intervals of shares are made for few cases behind the spread: more adds width, hardly coverage
NO_SPREAD = 1e-12  # below it cases differ but by rounding

Estimate = dict[str, float | None]  # value, low, high
Measures = Callable[[Predictions, Numbers], dict[str, Numbers]]


def interval_of(found: Estimate) -> tuple[float, float, float]:
    """Return value, lower and upper end of an interval as numbers; NaN where the metric isn't defined."""
    value, low, high = (math.nan if (end := found[name]) is None else end for name in ("value", "low", "high"))
    return value, low, high


def estimate_metrics(
    predictions: Predictions, resamples: int, seed: int, measures: Measures = measure_resamples
) -> dict[str, Estimate]:
    """Every metric with its interval.

    Args:
        predictions: the graded patches.
        resamples: how many resamples stand behind each interval.
        seed: decides which cases they draw; the same seed gives the same intervals on every machine.
        measures: metrics from predictions and how often each resample drew each case, calibration error among them;
            all of them by default.

    Returns:
        `{"value": .., "low": .., "high": ..}` per metric, each None where the metric isn't defined.
    """
    count = predictions.case_count
    draws = np.concatenate([draw_fewer(count, resamples, seed), leave_one_out(count)])
    informative, steps = informative_cases(predictions), half_steps(predictions)
    values, spread = measures(predictions, np.ones((1, count))), measures(predictions, draws)
    intervals = {
        name: estimate(
            float(value[0]),
            spread[name][:resamples],
            cases_behind(spread[name][resamples:], informative[name], _least_cases(name, informative[name])),
            steps[name],
        )
        for name, value in values.items()
    }
    return intervals | {"calibration_error": _calibration_error(predictions, draws, informative["calibration_error"])}


def _calibration_error(predictions: Predictions, draws: Numbers, informative: float) -> Estimate:
    """The calibration error with its interval; the last of `draws` leave out one case each."""
    count = predictions.case_count
    with np.errstate(invalid="ignore"):  # without its only case nothing is left
        gaps, drawn = (calibration_gaps(predictions, drawn) for drawn in (np.ones((1, count)), draws))
    resampled, left_out = drawn[:-count], drawn[-count:]
    cases = min(cases_behind(sums, informative) for sums in (np.abs(left_out).sum(axis=1), left_out.sum(axis=1)))
    return absolute_sum(gaps[0], resampled, cases)


def leave_one_out(cases: int) -> Numbers:
    """Return draws that leave out one case each and take every other once, (cases, cases)."""
    return np.ones((cases, cases)) - np.eye(cases)


def _least_cases(metric: str, informative: float) -> float:
    """For how many cases a spread counts at least: of a share, those that give `WIDEST` times the plain t quantile."""
    if metric not in SHARES or informative < 2:
        return LEAST_CASES
    chance = (1 + LEVEL) / 2
    widest = WIDEST * stats.t.ppf(chance, informative - 1)
    freedom = optimize.brentq(lambda freedom: stats.t.ppf(chance, freedom) - widest, 0.5, informative, xtol=1e-3)
    return max(LEAST_CASES, float(freedom) + 1)


def cases_behind(left_out: Numbers, informative: float, least: float = LEAST_CASES) -> float:
    """Count on how many cases a metric's spread rests, were all of them to weigh alike.

    A variance from n cases is itself uncertain: by its own variance s^4 (k - 1) / n, where k is the kurtosis of what
    the cases contribute. A chi-squared law of as many degrees of freedom as give that variance, 2 n / (k - 1)
    (Satterthwaite 1946, doi:10.2307/3002019), counts for less where the spread sits in a few cases, as the Brier
    score's does where positive patches are rare. A sample without the rarest cases shows too low a kurtosis, so only
    `SHOWN_KURTOSIS` of that is taken, which simulation chose.

    Args:
        left_out: the metric with each case left out in turn, (cases,); NaN where it isn't defined then.
        informative: on how many cases the metric rests by their sizes.
        least: for how many it counts at least.

    Returns:
        At most `informative`, and at least `least` where that is more.
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
    """Return half of the least that each metric can differ from 0 or 1 by.

    A share of patches moves by a patch, a ROC AUC by a pair of a positive and a negative one, average precision by what
    the last positive loses to a single false alarm. Squared errors know no least one.
    """
    patches, positives = len(predictions.labels), int(predictions.labels.sum())
    negatives = patches - positives
    particular = {
        "roc_auc": 0.5 / max(1, positives * negatives),
        "average_precision": 0.5 / max(1, positives * max(negatives, positives + 1)),
        "brier": NO_SPREAD,
    }
    return dict.fromkeys(METRICS, 0.5 / patches) | particular


def draw_cases(cases: int, resamples: int, seed: int | Sequence[int], draws: int | None = None) -> Numbers:
    """How often each resample draws each case, (resamples, cases); it draws as many as there are, or `draws`.

    Made from the raw numbers of the generator, which numpy keeps the same from version to version (NEP 19),
    unlike those of its distributions. Taking the remainder favours no case by more than one part in 2**55.
    """
    count = cases if draws is None else draws
    raw = np.random.Philox(seed).random_raw(resamples * count)
    drawn = (raw % np.uint64(cases)).astype(np.int64).reshape(resamples, count)
    place = drawn + cases * np.arange(resamples)[:, np.newaxis]
    return np.bincount(place.ravel(), minlength=resamples * cases).reshape(resamples, cases).astype(np.float64)


def draw_fewer(cases: int, resamples: int, seed: int | Sequence[int]) -> Numbers:
    """`draw_cases` with one draw fewer than there are cases, (resamples, cases)."""
    return draw_cases(cases, resamples, seed, max(1, cases - 1))


def informative_cases(predictions: Predictions) -> dict[str, float]:
    """On how many cases each metric rests, were they of equal size.

    A case without positive patches says nothing of sensitivity; what compares the classes rests on the rarer
    kind of case. Where every patient has one label, as in BreakHis, this is what the interval's width depends
    on.
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
    """How many cases of equal size would tell as much: the squared sum of sizes over the sum of squares (Kish 1965)."""
    sizes = predictions.per_case(patches)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def estimate(value: float, resampled: Numbers, cases: float, half_step: float) -> Estimate:
    """A metric's value with its interval.

    Args:
        value: on all patches.
        resampled: on each resample; NaN where it isn't defined there.
        cases: on how many cases the metric rests.
        half_step: half of the least that it can differ from 0 or 1 by, as `half_steps` tells.
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    defined = resampled[~np.isnan(resampled)]
    low, high = interval(value, defined, cases, half_step)
    return {"value": float(value), "low": low, "high": high}


def interval(value: float, resampled: Numbers, cases: float, half_step: float) -> tuple[float, float]:
    """The interval around `value`, a number in [0, 1]; arguments as for `estimate`, without NaN."""
    if cases < 2 or len(resampled) < 2:
        return 0.0, 1.0
    if value in (0.0, 1.0) or np.ptp(resampled) < NO_SPREAD:
        bound = ((1 - LEVEL) / 2) ** (1 / cases)
        return float(value * bound), float(1 - (1 - value) * bound)
    reach = _reach(_logit(resampled, half_step), cases)
    centre = np.log(value / (1 - value))
    return float(_expit(centre - reach)), float(_expit(centre + reach))


def absolute_sum(terms: Numbers, resampled: Numbers, cases: float) -> Estimate:
    """The sum of the absolute values of `terms`, with its interval.

    What chance does to a term raises the sum where the truth is near 0, and resampling raises it once more. So the
    lower end is looked for: the smallest share of the terms found which chance, as the resamples show it, raises to
    the sum found one time in 25 (a test turned round). At the upper end chance added nothing, or even hid what all
    terms have in common: there the sum varies as much as the absolute values do, or the terms' net sum if that varies
    more.

    Args:
        terms: on all patches, (terms,).
        resampled: on each resample, (resamples, terms).
        cases: on how many cases they rest.
    """
    value = float(np.abs(terms).sum())
    if cases < 2 or len(resampled) < 2:
        return {"value": value, "low": 0.0, "high": 1.0}
    reach = max(_reach(np.abs(resampled).sum(axis=1), cases), _reach(resampled.sum(axis=1), cases))
    low = value * _least_share(terms, _widening(cases) * (resampled - terms))
    return {"value": value, "low": low, "high": min(1.0, value + reach)}


def _least_share(terms: Numbers, noise: Numbers) -> float:
    """Share of the terms, 0 to 1, with which chance gives their whole absolute sum at `LOWER_RISK`."""
    value = np.abs(terms).sum()

    def beyond(share: float) -> float:
        return float(np.quantile(np.abs(share * terms + noise).sum(axis=1), 1 - LOWER_RISK) - value)

    if beyond(0.0) >= 0:
        return 0.0
    return 1.0 if beyond(1.0) <= 0 else float(optimize.brentq(beyond, 0.0, 1.0, xtol=1e-6))


def _widening(cases: float) -> float:
    """How much further a t quantile for so many cases reaches than the normal law's."""
    return float(stats.t.ppf((1 + LEVEL) / 2, cases - 1) / stats.norm.ppf((1 + LEVEL) / 2))


def _reach(resampled: Numbers, cases: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, cases - 1) * np.std(resampled, ddof=1))


def _logit(shares: Numbers, half_step: float) -> Numbers:
    """Log odds; a share of 0 or 1 is taken for half a step, so that a perfect resample stays finite."""
    inside = np.clip(shares, half_step, 1 - half_step)
    return np.log(inside / (1 - inside))


def _expit(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
