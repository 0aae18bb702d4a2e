"""The threshold that turns probabilities into decisions: it is chosen on validation by a rule, then fixed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from histopipe.core.errors import EvaluationError
from histopipe.core.params import ThresholdRule
from histopipe.evaluation.calibration import log_odds
from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.intervals import effective_cases_from_spread, leave_one_out, resample_fewer_cases
from histopipe.evaluation.metrics import Codes, Numbers

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger(__name__)

LEAST_CASES = 5  # cases with positive patches that a bound needs: fewer miss the confidence too often in simulation
RESAMPLES, SEED = 1000, 42  # of the resampling for a bound
RESAMPLES_AT_ONCE = 64


def choose_threshold(
    rule: ThresholdRule, labels: Codes, probabilities: Numbers, case_ids: ArrayLike | None = None
) -> float:
    """Choose the best threshold by a rule; a patch is called positive at or above it.

    The threshold is halfway between two neighbouring probabilities, or between the lowest one and 0 or the highest one
    and 1, so that rounding in the served model (single precision) moves no patch across it. Of equally good thresholds
    the lowest is chosen, since it misses fewer positives.

    Args:
        rule: `youden` maximises sensitivity + specificity - 1 (Youden 1950), `f1` the F1 score, `sensitivity` the
            specificity among thresholds that reach a sensitivity on these patches, or with a confidence on new cases;
            `cost` minimises the cost of misses and false alarms.
        labels: 1 for the positive class, else 0; both occur.
        probabilities: calibrated probabilities of the positive class.
        case_ids: the case of each patch; required if the rule has a confidence.

    Raises:
        EvaluationError: the rule has a confidence, and too few cases have positive patches.

    Example:
        >>> rule = ThresholdRule(name="youden")
        >>> choose_threshold(rule, np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9]))
        0.4
    """
    if rule.confidence is not None:
        return _choose_bound(rule, labels, probabilities, case_ids)
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    steps = np.flatnonzero(np.diff(falling, append=-1.0))
    hits = np.cumsum(labels[order])[steps]
    objective = _objective(rule, hits, steps + 1 - hits)
    if rule.name == "cost" and -rule.fn * hits[-1] > objective.max():
        return _midpoint(1.0, falling[0])  # calling nothing positive costs least
    best = int(np.flatnonzero(objective == objective.max())[-1])
    return _midpoint(falling[steps[best]], falling[steps[best + 1]] if best + 1 < len(steps) else 0.0)


def require_cases_for_rule(rule: ThresholdRule, table: pd.DataFrame) -> None:
    """Check, before anything is predicted, that validation has enough cases for a rule with a confidence.

    Args:
        rule: rule for choosing the threshold.
        table: columns `case_id,split,label` of the patches to evaluate.

    Raises:
        EvaluationError: fewer than `LEAST_CASES` validation cases have positive patches.
    """
    positives = table[(table["split"] == "validation") & (table["label"] == 1)]
    if rule.confidence is not None:
        _require_cases(rule, int(counted_cases(positives).nunique()))


def _require_cases(rule: ThresholdRule, count: int) -> None:
    if count < LEAST_CASES:
        raise EvaluationError(
            f"evaluate.threshold: {rule} needs {LEAST_CASES} validation cases with positive patches, and there are "
            f"{count}: enlarge `split.validation`, add cases, or use sensitivity>={rule.at_least:g}, which new cases "
            "reach about half of the time"
        )


def _choose_bound(rule: ThresholdRule, labels: Codes, probabilities: Numbers, case_ids: ArrayLike | None) -> float:
    """Choose a threshold at which new cases reach a sensitivity with the rule's confidence.

    The threshold that reaches the sensitivity on the validation cases is chosen again on resamples of them (see
    `intervals`). Two terms are subtracted from it on the logit scale: its bias, which is the mean increase over
    resamples, and its spread times a one-sided t quantile for the effective number of cases. The spread is the standard
    deviation or, if larger, the deviation downwards.
    """
    if case_ids is None:
        raise ValueError("a rule with a confidence needs the patches' cases")
    positive = labels == 1
    _, cases = np.unique(np.asarray(case_ids, dtype=str)[positive], return_inverse=True)
    sizes = np.bincount(cases).astype(np.int64)
    _require_cases(rule, len(sizes))
    order = np.argsort(-probabilities[positive], kind="stable")
    falling, cases = log_odds(probabilities[positive][order]), cases[order]
    draws = np.concatenate(
        [np.ones((1, len(sizes))), leave_one_out(len(sizes)), resample_fewer_cases(len(sizes), RESAMPLES, SEED)]
    )
    reached, *others = _thresholds_reaching(rule.at_least, falling, cases, draws)
    left_out, resampled = np.array(others[: len(sizes)]), np.array(others[len(sizes) :])
    freedom = max(1.0, effective_cases_from_spread(left_out, float(sizes.sum() ** 2 / (sizes**2).sum())) - 1)
    downwards = np.sqrt(2 * (np.minimum(0.0, resampled - reached) ** 2).mean())
    spread = max(float(np.std(resampled, ddof=1)), float(downwards))
    bias = max(0.0, float(resampled.mean()) - reached)
    bound = reached - bias - stats.t.ppf(rule.confidence, freedom) * spread
    called = log_odds(probabilities) >= bound  # on the logit scale, since converting back may round up
    if called.all():
        LOG.warning("%s: too few or too different cases for a useful bound: all patches are called positive", rule)
    return _midpoint(probabilities[called].min(), probabilities[~called].max(initial=0.0))


def _thresholds_reaching(at_least: float, falling: Numbers, cases: Codes, drawn: Numbers) -> Numbers:
    """Find, in each resample, the highest log odds at which a threshold reaches the sensitivity: (resamples,).

    Args:
        at_least: the sensitivity.
        falling: log odds of the positive patches, the highest first.
        cases: number of each patch's case, from 0.
        drawn: how often each resample drew each case, (resamples, cases).
    """
    thresholds = np.empty(len(drawn))
    for start in range(0, len(drawn), RESAMPLES_AT_ONCE):
        hits = np.cumsum(drawn[start : start + RESAMPLES_AT_ONCE, cases], axis=1)
        enough = hits >= at_least * hits[:, -1:] - 1e-9
        thresholds[start : start + RESAMPLES_AT_ONCE] = falling[enough.argmax(axis=1)]
    return thresholds


def decide(probabilities: Numbers, threshold: float) -> Codes:
    """Return 1 for each patch that is called positive, else 0.

    Example:
        >>> decide(np.array([0.2, 0.5, 0.8]), threshold=0.5).tolist()
        [0, 1, 1]
    """
    return (probabilities >= threshold).astype(np.int64)


def _objective(rule: ThresholdRule, hits: Codes, false_alarms: Codes) -> Numbers:
    """Compute what the rule maximises, per step down from the highest probability; the last step calls all patches."""
    positives, negatives = hits[-1], false_alarms[-1]
    if rule.name == "youden":  # times positives x negatives: whole numbers, so that ties are exact
        return (hits * negatives - false_alarms * positives).astype(np.float64)
    if rule.name == "f1":
        return 2 * hits / (hits + false_alarms + positives)
    if rule.name == "sensitivity":
        required = round(rule.at_least * positives, 9)  # .55 x 100 is 55.000000000000007
        return np.where(hits >= required, -false_alarms.astype(np.float64), -np.inf)
    return -(rule.fn * (positives - hits) + rule.fp * false_alarms)


def _midpoint(upper: float, lower: float) -> float:
    middle = (float(upper) + float(lower)) / 2
    return middle if middle > lower else float(upper)  # there is no number between adjacent floats
