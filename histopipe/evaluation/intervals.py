"""95 % intervals from resampling whole cases.

Patches of one case resemble each other, so the case is the unit that chance draws: a resample draws as many
cases as there are, with replacement, each with all its patches. The spread of a metric over resamples is
taken on the logit scale, where it is nearer to symmetric and can't leave [0, 1], and widened by a t quantile
for the few cases it rests on: the percentiles of the resamples themselves were seen to cover .90 at 25 and
.92 at 49 cases instead of .95, this .92 and .94.

What can't be resampled is answered by what is known of it:

* Fewer than two cases to resample: nothing is known of the spread, the interval is [0, 1].
* An estimate of exactly 0 or 1, as of a perfect model, has no spread. Its far end is where all n cases alike
  would be seen one time in forty: 0.025 ** (1 / n), the bound of Clopper & Pearson 1934.
* A metric that isn't defined (precision where nothing is called positive) has no interval: three times None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from histopipe.evaluation.metrics import METRICS, Codes, Numbers, Predictions, measure_resamples

LEVEL = 0.95

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
        measures: metrics from predictions and how often each resample drew each case; all of them by default.

    Returns:
        `{"value": .., "low": .., "high": ..}` per metric, each None where the metric isn't defined.
    """
    spread = measures(predictions, draw_cases(predictions.case_count, resamples, seed))
    once = measures(predictions, np.ones((1, predictions.case_count)))
    informative = informative_cases(predictions)
    return {
        name: measured(float(value[0]), spread[name], informative[name], len(predictions.labels))
        for name, value in once.items()
    }


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


def informative_cases(predictions: Predictions) -> dict[str, int]:
    """On how many cases each metric rests.

    A case without positive patches says nothing of sensitivity; what compares the classes rests on the rarer
    kind of case. Where every patient has one label, as in BreakHis, this is what the interval's width depends
    on.
    """
    with_positives = _cases_among(predictions, predictions.labels == 1)
    with_negatives = _cases_among(predictions, predictions.labels == 0)
    called = _cases_among(predictions, predictions.decisions == 1)
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
    return {name: particular.get(name, predictions.case_count) for name in METRICS}


def _cases_among(predictions: Predictions, patches: NDArray[np.bool_]) -> int:
    cases: Codes = predictions.cases[patches]
    return len(np.unique(cases))


def measured(value: float, resampled: Numbers, cases: int, patches: int) -> Measured:
    """A metric's value with its interval.

    Args:
        value: on all patches.
        resampled: on each resample; NaN where it isn't defined there.
        cases: on how many cases the metric rests.
        patches: how many patches there are.
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    low, high = interval(value, resampled[~np.isnan(resampled)], cases, patches)
    return {"value": float(value), "low": low, "high": high}


def interval(value: float, resampled: Numbers, cases: int, patches: int) -> tuple[float, float]:
    """The interval around `value`, a number in [0, 1]; arguments as for `measured`, without NaN."""
    if cases < 2 or len(resampled) < 2:
        return 0.0, 1.0
    if value in (0.0, 1.0):
        bound = ((1 - LEVEL) / 2) ** (1 / cases)
        return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
    error = float(np.std(_logit(resampled, patches), ddof=1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, cases - 1)) * error
    centre = np.log(value / (1 - value))
    return float(_expit(centre - reach)), float(_expit(centre + reach))


def _logit(shares: Numbers, patches: int) -> Numbers:
    """Log odds; a share of 0 or 1 is taken for half a patch, so that a perfect resample stays finite."""
    half = 0.5 / patches
    inside = np.clip(shares, half, 1 - half)
    return np.log(inside / (1 - inside))


def _expit(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
