"""95 % intervals from resampling whole cases.

Patches of one case resemble each other, so the case is the unit that chance draws: a resample draws one case fewer
than there are, with replacement, each with all its patches (drawing all n understates the variance by (n - 1) / n,
Rao & Wu 1988, doi:10.1080/01621459.1988.10478591). The spread of a metric over resamples is taken on the logit scale,
where it is nearer to symmetric and can't leave [0, 1], and widened by a t quantile for the few cases it rests on. Cases
of unequal size count for fewer than they are (Kish 1965, "Survey sampling"; Carter, Schnepel & Steigerwald 2017,
"Asymptotic behavior of a t-test robust to cluster heterogeneity"). How often such intervals hold the truth was
simulated: docs/evaluation.md.

What can't be resampled is answered by what is known of it:

* Fewer than two cases to resample: nothing is known of the spread, the interval is [0, 1].
* An estimate of exactly 0 or 1, as of a perfect model, has no spread. Its far end is where all n cases alike
  would be seen one time in forty: 0.025 ** (1 / n), the bound of Clopper & Pearson 1934.
* A metric that isn't defined (precision where nothing is called positive) has no interval: three times None.
* Calibration error is a sum of absolute values, to which chance only adds: see `absolute_sum`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from histopipe.evaluation.metrics import METRICS, Numbers, Predictions, calibration_gaps, measure_resamples

LEVEL = 0.95
LOWER_RISK = 0.04  # of an absolute sum: its upper end hardly ever misses where chance is all there is

Measured = dict[str, float | None]  # value, low, high
Measures = Callable[[Predictions, Numbers], dict[str, Numbers]]


def grade(
    predictions: Predictions, resamples: int, seed: int, measures: Measures = measure_resamples
) -> dict[str, Measured]:
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
    once, draws = np.ones((1, predictions.case_count)), draw_fewer(predictions.case_count, resamples, seed)
    informative, patches = informative_cases(predictions), len(predictions.labels)
    values, spread = measures(predictions, once), measures(predictions, draws)
    found = {
        name: measured(float(value[0]), spread[name], informative[name], patches) for name, value in values.items()
    }
    gaps, drawn_gaps = calibration_gaps(predictions, once)[0], calibration_gaps(predictions, draws)
    return found | {"calibration_error": absolute_sum(gaps, drawn_gaps, informative["calibration_error"])}


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
    with_positives = _effective_cases(predictions, predictions.labels == 1)
    with_negatives = _effective_cases(predictions, predictions.labels == 0)
    called = _effective_cases(predictions, predictions.decisions == 1)
    everything = _effective_cases(predictions, predictions.labels >= 0)
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


def _effective_cases(predictions: Predictions, patches: NDArray[np.bool_]) -> float:
    """How many cases of equal size would tell as much: the squared sum of sizes over the sum of squares (Kish 1965)."""
    sizes = predictions.per_case(patches)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def measured(value: float, resampled: Numbers, cases: float, patches: int) -> Measured:
    """A metric's value with its interval.

    Args:
        value: on all patches.
        resampled: on each resample; NaN where it isn't defined there.
        cases: on how many cases the metric rests.
        patches: how many patches there are.
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    defined = resampled[~np.isnan(resampled)]
    low, high = interval(value, defined, cases, patches)
    return {"value": float(value), "low": low, "high": high}


def interval(value: float, resampled: Numbers, cases: float, patches: int) -> tuple[float, float]:
    """The interval around `value`, a number in [0, 1]; arguments as for `measured`, without NaN."""
    if cases < 2 or len(resampled) < 2:
        return 0.0, 1.0
    if value in (0.0, 1.0):
        bound = ((1 - LEVEL) / 2) ** (1 / cases)
        return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
    reach = _reach(_logit(resampled, patches), cases)
    centre = np.log(value / (1 - value))
    return float(_expit(centre - reach)), float(_expit(centre + reach))


def absolute_sum(terms: Numbers, resampled: Numbers, cases: float) -> Measured:
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


def _logit(shares: Numbers, patches: int) -> Numbers:
    """Log odds; a share of 0 or 1 is taken for half a patch, so that a perfect resample stays finite."""
    half = 0.5 / patches
    inside = np.clip(shares, half, 1 - half)
    return np.log(inside / (1 - inside))


def _expit(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
