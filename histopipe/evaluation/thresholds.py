"""From probability to decision: the threshold is chosen on validation by rule, then locked."""

from __future__ import annotations

import numpy as np

from histopipe.evaluation.metrics import Codes, Numbers
from histopipe.params import ThresholdRule


def choose_threshold(rule: ThresholdRule, labels: Codes, probabilities: Numbers) -> float:
    """The threshold that does best by `rule`; a patch is called positive at or above it.

    It lies halfway between two probabilities that occur, so that rounding in the served model (single
    precision) moves no patch across it. Of equally good thresholds the lowest is taken: it misses fewer
    positives.

    Args:
        rule: `youden` maximises sensitivity + specificity - 1 (Youden 1950), `f1` the F1 score, `sensitivity` the
            specificity among thresholds that reach a sensitivity; `cost` minimises what misses and false alarms cost.
        labels: 1 for the positive class, else 0; both occur.
        probabilities: calibrated, of the positive class.
    """
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    steps = np.flatnonzero(np.diff(falling, append=-1.0))
    hits = np.cumsum(labels[order])[steps]
    score = _score(rule, hits, steps + 1 - hits)
    if rule.name == "cost" and -rule.fn * hits[-1] > score.max():
        return _between(1.0, falling[0])  # to call nothing costs least
    best = int(np.flatnonzero(score == score.max())[-1])
    return _between(falling[steps[best]], falling[steps[best + 1]] if best + 1 < len(steps) else 0.0)


def decide(probabilities: Numbers, threshold: float) -> Codes:
    """1 where a patch is called positive, else 0."""
    return (probabilities >= threshold).astype(np.int64)


def _score(rule: ThresholdRule, hits: Codes, false_alarms: Codes) -> Numbers:
    """What `rule` maximises, per step from the highest probability down; the last step calls every patch."""
    positives, negatives = hits[-1], false_alarms[-1]
    if rule.name == "youden":  # times positives x negatives: whole numbers, so that equals are equal
        return (hits * negatives - false_alarms * positives).astype(np.float64)
    if rule.name == "f1":
        return 2 * hits / (hits + false_alarms + positives)
    if rule.name == "sensitivity":
        wanted = round(rule.at_least * positives, 9)  # .55 x 100 is 55.000000000000007
        return np.where(hits >= wanted, -false_alarms.astype(np.float64), -np.inf)
    return -(rule.fn * (positives - hits) + rule.fp * false_alarms)


def _between(upper: float, lower: float) -> float:
    middle = (float(upper) + float(lower)) / 2
    return middle if middle > lower else float(upper)  # neighbouring floats have nothing between them
