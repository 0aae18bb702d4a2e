"""The gates that a model must pass to become champion: arithmetic on predictions, without a registry.

Choosing a model on test would use up the test set, so validation chooses and test only refuses. A floor is compared
with the nearer end of the metric's 95 % interval, so that a model doesn't pass it by chance. The champion isn't to be
beaten, only not to be undercut by more than a margin: the lower end of the paired interval must not be below the
negative margin (non-inferiority; Piaggio et al. 2012, doi:10.1001/jama.2012.87802), at the level that this look at the
cases may spend (see `spending`). The comparison with the anchor is the same, with a margin for the total loss: a chain
of champions that each lose a little would lose much (Feng, Emerson & Simon 2021, doi:10.1111/biom.13379).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from histopipe.core.cases.ids import is_among
from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.params import Params
from histopipe.data.leakage import UNKNOWN, WHY_UNKNOWN, Leaky
from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.intervals import Estimate, estimate_metrics, informative_cases
from histopipe.evaluation.metrics import METRICS, Numbers
from histopipe.promotion.noninferiority import ONE_SIDED, UNDEFINED, AucDifference, compare_roc_auc, predictions_in
from histopipe.promotion.spending import risk_of_look, why_spent

_JUDGED = ["case_id", "label", "probability"]
_LEAK_RULE = "no, or to be allowed by `promotion.unknown_weights: allow`"
_LOWER, _UPPER = "lower end of its interval", "upper end of its interval"

TITLES = {
    "leak": "cases shared between splits",
    "rolled_back": "rolled back",
    "data": "data compared with the champion's",
    "quick": "trained under the caps of `quick`",
    "cases": "test cases that neither model has seen",
    "roc_auc": f"ROC AUC, {_LOWER}",
    "balanced_accuracy": f"balanced accuracy at the locked threshold, {_LOWER}",
    "specificity": f"specificity at the locked threshold, {_LOWER}",
    "sensitivity": f"sensitivity at the locked threshold, {_LOWER}",
    "calibration_error": f"calibration error, {_UPPER}",
    "difference": f"ROC AUC less the champion's, {_LOWER}",
    "anchor": f"ROC AUC less the anchor's, {_LOWER}",
}
RELATIONS = {
    "cases": "at least",
    "roc_auc": "above",
    "balanced_accuracy": "above",
    "specificity": "at least",
    "sensitivity": "at least",
    "calibration_error": "at most",
    "difference": "at least",
    "anchor": "at least",
}


@dataclass(frozen=True)
class Gate:
    """A condition and what was measured.

    Attributes:
        name: its key in tags.
        passed: whether the condition holds.
        measured: the number or word that was measured; None if it isn't defined.
        limit: what `measured`, or its bound, is compared with.
        interval: text after `measured` in messages, such as its interval.
        bound: the end of the interval of `measured` that decides; None if `measured` itself decides.
    """

    name: str
    passed: bool
    measured: float | str | None
    limit: float | str
    interval: str = ""
    bound: float | None = None

    @property
    def title(self) -> str:
        """The condition in words."""
        return TITLES[self.name]

    @property
    def measurement(self) -> str:
        """The measured value, in words."""
        shown = "undefined" if self.measured is None else format_measurement(self.measured)
        return f"{shown} {self.interval}".rstrip()

    @property
    def rule(self) -> str:
        """The required value, in words."""
        return describe_requirement(self.name, self.limit)

    @property
    def reason(self) -> str:
        """The condition, what was measured, and what is required."""
        return f"{self.title}: {self.measurement}, wanted {self.rule}"


def describe_requirement(name: str, limit: float | str) -> str:
    """Describe the value that a gate requires, such as `at least 0.5`."""
    return f"{RELATIONS.get(name, '')} {format_measurement(limit)}".lstrip()


def format_measurement(value: float | str) -> str:
    """Format a number to three digits; a word is returned as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def leak_gate(leaky: Leaky, allow_unknown: bool = False) -> Gate:
    """Return the gate that a model passes if it was trained on no test case; otherwise its metrics measure memory.

    Args:
        leaky: whether it was trained on test cases; `unknown` if the cases behind its initial weights are unknown.
        allow_unknown: whether `unknown` passes (`promotion.unknown_weights: allow`).
    """
    if leaky == UNKNOWN:
        return Gate("leak", allow_unknown, UNKNOWN, _LEAK_RULE, f"({WHY_UNKNOWN})")
    return Gate("leak", not leaky, "yes" if leaky else "no", "no")


def rolled_back_gate(since: str | None, allow: bool) -> Gate:
    """Return the gate that a rolled-back model passes only if the user asks for it again.

    Args:
        since: the time of the rollback; None if it wasn't rolled back.
        allow: whether the user allowed it (`--again`).
    """
    return Gate("rolled_back", since is None or allow, since or "no", "no, or to be asked for with --again")


def select_unseen(table: pd.DataFrame, *seen: Iterable[str], dataset: str = "") -> pd.DataFrame:
    """Return the rows of cases that are in none of the lists of case ids; `dataset` decides how ids are compared."""
    is_seen = is_among(table["case_id"], [case for cases in seen for case in cases], dataset)
    return table[~is_seen].reset_index(drop=True)


@dataclass(frozen=True)
class Reference:
    """A model with which a candidate is compared in addition to the champion.

    Attributes:
        title: its name in messages.
        table: the candidate's test patches that neither has seen.
        probability: the reference's probability of them, (patches,).
    """

    title: str
    table: pd.DataFrame
    probability: Numbers

    def is_same(self, table: pd.DataFrame, probability: Numbers | None) -> bool:
        """Return whether patches and probabilities are the same, so that one comparison covers both."""
        same = probability is not None and np.array_equal(self.probability, probability)
        return same and self.table[_JUDGED].equals(table[_JUDGED])


def evaluate_gates(
    table: pd.DataFrame,
    champion: Numbers | None,
    params: Params,
    look: int = 1,
    anchor: Reference | None = None,
    unrecorded_looks: int = 0,
) -> list[Gate]:
    """Compare a model's predictions with the limits of `promotion`.

    Args:
        table: test patches that neither model has seen: columns `case_id,label,probability,decision`,
            and those of `counted_cases`.
        champion: the champion's probabilities of the same patches, (patches,); None if there is no champion, so that
            only the floors count.
        params: parameters with the limits, the number of resamples and the seed.
        look: the number of this look at the cases, from 1; later ones have a stricter level.
        anchor: the anchor's predictions; None if there is no anchor to compare with.
        unrecorded_looks: number of earlier looks whose cases weren't recorded; they count at every set of test cases.

    Returns:
        The gates, each with its measurement and its limit.
    """
    limits = params.promotion
    risk, spent = risk_of_look(look, limits.risk, limits.looks), why_spent(look, limits.looks, unrecorded_looks)
    cases = int(counted_cases(table).nunique())
    alone = champion is None and anchor is None
    gates = [
        Gate("cases", cases >= limits.min_cases, cases, limits.min_cases),
        *_floors(table, params, risk if alone else limits.risk / 2, spent if alone else ""),
    ]
    champion_difference = None if champion is None else compare_roc_auc(table, champion, params, risk, spent)
    if champion_difference is not None:
        gates.append(_not_inferior("difference", champion_difference, limits.margin))
    if anchor is not None:
        anchor_difference = champion_difference if anchor.is_same(table, champion) else None
        anchor_difference = anchor_difference or compare_roc_auc(anchor.table, anchor.probability, params, risk, spent)
        gates.append(_not_inferior("anchor", anchor_difference, limits.anchor_margin, anchor.title))
    return gates


def _floors(table: pd.DataFrame, params: Params, risk: float, spent: str) -> list[Gate]:
    """Compare each metric with its floor; `spent` says why a test of the discrimination is no longer possible."""
    limits = params.promotion
    floors = {
        "roc_auc": limits.min_roc_auc,
        "balanced_accuracy": limits.min_balanced_accuracy,
        "specificity": limits.min_specificity,
        "sensitivity": limits.min_sensitivity,
    }
    metrics, undefined = _evaluate(table, params), _undefined(table)
    if not table.empty:
        informative = informative_cases(predictions_in(table, table["probability"].to_numpy()))["roc_auc"]
        metrics["roc_auc"] = tighten_lower_bound(metrics["roc_auc"], informative, risk)
    gates = [
        _at_least(name, metrics[name], limit, undefined, spent if name == "roc_auc" else "")
        for name, limit in floors.items()
    ]
    return [
        *gates,
        _at_most("calibration_error", metrics["calibration_error"], limits.max_calibration_error, undefined),
    ]


def _evaluate(table: pd.DataFrame, params: Params) -> dict[str, Estimate]:
    if table.empty:
        return dict.fromkeys(METRICS, UNDEFINED)
    predictions = predictions_in(table, table["probability"].to_numpy())
    return estimate_metrics(predictions, params.evaluate.resamples, params.seed)


def tighten_lower_bound(measured: Estimate, cases: float, risk: float) -> Estimate:
    """Move the lower end of a share's 95 % interval to a stricter one-sided level.

    This is done on the logit scale, on which the interval was computed, with quantiles of the t distribution whose
    degrees of freedom are the informative cases less one. For a share of exactly 1 it is the bound of Clopper &
    Pearson.
    """
    value, low = measured["value"], measured["low"]
    if value is None or not low or cases <= 1 or risk >= ONE_SIDED:
        return measured
    if risk <= 0:
        return measured | {"low": 0.0}
    if value == 1.0:
        return measured | {"low": float(low ** (np.log(risk) / np.log(ONE_SIDED)))}
    further = stats.t.isf(risk, cases - 1) / stats.t.isf(ONE_SIDED, cases - 1)
    return measured | {"low": float(expit(logit(value) - further * (logit(value) - logit(low))))}


def _undefined(table: pd.DataFrame) -> str:
    """Explain why a metric may have no value."""
    if table.empty:
        return "(there is no test case that neither model has seen)"
    return f"(all {len(table):,} test patches are of one class)" if not holds_both_classes(table["label"]) else ""


def _at_least(name: str, measured: Estimate, limit: float, why: str, spent: str = "") -> Gate:
    """Return the gate of a floor; 0 only requires a value, and a floor at chance level must be exceeded."""
    value, low = measured["value"], measured["low"]
    passed = low is not None and (low > limit if limit and RELATIONS[name] == "above" else low >= limit)
    refused_for = f" ({spent})" if spent and not passed else ""
    return Gate(name, passed, value, limit, _interval(measured, why) + refused_for, low)


def _at_most(name: str, measured: Estimate, limit: float, why: str) -> Gate:
    value, high = measured["value"], measured["high"]
    return Gate(name, high is not None and high <= limit, value, limit, _interval(measured, why), high)


def _not_inferior(name: str, compared: AucDifference, margin: float, title: str = "") -> Gate:
    verdict = " ".join(filter(None, [title, compared.verdict(margin)]))
    return Gate(name, compared.holds(margin), compared.low, -margin, verdict)


def _interval(measured: Estimate, why: str) -> str:
    low, high = measured["low"], measured["high"]
    if low is None or high is None:
        return why
    uncertain = " (too few cases to know how far it may be off)" if (low, high) == (0.0, 1.0) else ""
    return f"[{low:.3f}, {high:.3f}]{uncertain}"


def reasons(gates: Collection[Gate]) -> list[str]:
    """List why a model is refused; empty if it passes all gates."""
    return [gate.reason for gate in gates if not gate.passed]
