"""What a model must show before it becomes champion: arithmetic on predictions, without a registry.

Choosing a model on test would spend the test set, so validation chooses and test only says no. A floor is held against
the end of the 95 % interval that lies on its side: what chance alone may have lifted above it doesn't pass. Against the
champion the question is not "is it better?" but "is it at most so much worse?": the lower end of the paired interval
must not lie below the negative margin (non-inferiority; Piaggio et al. 2012, doi:10.1001/jama.2012.87802), at the level
that this look at the cases may spend (see `spending`). The same, with a margin in total, is asked beside the anchor: a
chain of champions that each lose a little would lose much (Feng, Emerson & Simon 2021, doi:10.1111/biom.13379).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from histopipe.core.cases.ids import are_known
from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.params import Params
from histopipe.data.leakage import UNKNOWN, WHY_UNKNOWN, Leaky
from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.intervals import Estimate, estimate_metrics, informative_cases
from histopipe.evaluation.metrics import METRICS, Numbers
from histopipe.promotion.noninferiority import ONE_SIDED, UNDEFINED, Shortfall, predictions_in, shortfall
from histopipe.promotion.spending import risk_of_look, why_spent

_JUDGED = ["case_id", "label", "probability"]
_LEAK_RULE = "no, or to be allowed by `promotion.unknown_weights: allow`"
_LOWER, _UPPER = "lower end of its interval", "upper end of its interval"

TITLES = {
    "leak": "cases shared between splits",
    "rolled_back": "rolled back",
    "data": "data beside the champion's",
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
WANTED = {
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
    """One condition and what was measured.

    Attributes:
        name: its key in tags.
        passed: whether it holds.
        measured: the number or word that decides; None where it isn't defined.
        limit: what `measured`, or its bound, is held against.
        interval: what stands beside `measured` for people.
        bound: the end of the interval of `measured` that decides; None where `measured` decides itself.
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
    def found(self) -> str:
        """What was measured, as people read it."""
        shown = "undefined" if self.measured is None else short(self.measured)
        return f"{shown} {self.interval}".rstrip()

    @property
    def rule(self) -> str:
        """What is wanted, as people read it."""
        return rule(self.name, self.limit)

    @property
    def reason(self) -> str:
        """The condition, what was measured, and what is wanted."""
        return f"{self.title}: {self.found}, wanted {self.rule}"


def rule(name: str, limit: float | str) -> str:
    """What a gate wants, as people read it: `at least 0.5`."""
    return f"{WANTED.get(name, '')} {short(limit)}".lstrip()


def short(value: float | str) -> str:
    """A number to three places or a word as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def leak_gate(leaky: Leaky, trusted: bool = False) -> Gate:
    """A model whose split shares cases measures memory, whatever its numbers; what nobody knows isn't taken for honest.

    Args:
        leaky: whether it was trained on test cases, or `unknown` where its weights' training cases are.
        trusted: whether `promotion.unknown_weights` lets unknown pass.
    """
    if leaky == UNKNOWN:
        return Gate("leak", trusted, UNKNOWN, _LEAK_RULE, f"({WHY_UNKNOWN})")
    return Gate("leak", not leaky, "yes" if leaky else "no", "no")


def rolled_back_gate(since: str | None, again: bool) -> Gate:
    """What was taken back stays back until it is asked for; `since`: when that was, if it was."""
    return Gate("rolled_back", since is None or again, since or "no", "no, or to be asked for with --again")


def unseen(table: pd.DataFrame, *seen: Iterable[str], dataset: str = "") -> pd.DataFrame:
    """The rows of cases that none of the lists of case ids holds; `dataset` tells how its ids may be read."""
    known = are_known(table["case_id"], [case for cases in seen for case in cases], dataset)
    return table[~known].reset_index(drop=True)


@dataclass(frozen=True)
class Reference:
    """A model that a candidate is held against beside the champion.

    Attributes:
        title: how people are told of it.
        table: the candidate's test patches that neither has seen.
        probability: the reference's probability of them, (patches,).
    """

    title: str
    table: pd.DataFrame
    probability: Numbers

    def is_same(self, table: pd.DataFrame, probability: Numbers | None) -> bool:
        """Whether these are the same patches and probabilities, so that one comparison answers for both."""
        same = probability is not None and np.array_equal(self.probability, probability)
        return same and self.table[_JUDGED].equals(table[_JUDGED])


def judge(
    table: pd.DataFrame,
    champion: Numbers | None,
    params: Params,
    look: int = 1,
    anchor: Reference | None = None,
    everywhere: int = 0,
) -> list[Gate]:
    """Hold a model's predictions against the limits of `promotion`.

    Args:
        table: test patches that neither model has seen: columns `case_id,label,probability,decision`,
            and those of `counted_cases`.
        champion: its probability of the same patches, (patches,); None where there is no champion, and only the
            floors count.
        params: hold the limits, resamples and seed.
        look: which look at these cases it is, from 1: further ones have a stricter level.
        anchor: the model below which no chain of champions may sink; None where there is none to compare with.
        everywhere: earlier looks of which nobody knows the cases, so that they count at fresh ones too.
    """
    limits = params.promotion
    risk, spent = risk_of_look(look, limits.risk, limits.looks), why_spent(look, limits.looks, everywhere)
    cases = int(counted_cases(table).nunique())
    alone = champion is None and anchor is None
    gates = [
        Gate("cases", cases >= limits.min_cases, cases, limits.min_cases),
        *_floors(table, params, risk if alone else limits.risk / 2, spent if alone else ""),
    ]
    compared = None if champion is None else shortfall(table, champion, params, risk, spent)
    if compared is not None:
        gates.append(_not_inferior("difference", compared, limits.margin))
    if anchor is not None:
        beside = compared if anchor.is_same(table, champion) else None
        beside = beside or shortfall(anchor.table, anchor.probability, params, risk, spent)
        gates.append(_not_inferior("anchor", beside, limits.anchor_margin, anchor.title))
    return gates


def _floors(table: pd.DataFrame, params: Params, risk: float, spent: str) -> list[Gate]:
    """Hold each measure against its floor; `spent` says why the discrimination can't be shown any more."""
    limits = params.promotion
    floors = {
        "roc_auc": limits.min_roc_auc,
        "balanced_accuracy": limits.min_balanced_accuracy,
        "specificity": limits.min_specificity,
        "sensitivity": limits.min_sensitivity,
    }
    graded, why = _graded(table, params), _undefined(table)
    if not table.empty:
        informative = informative_cases(predictions_in(table, table["probability"].to_numpy()))["roc_auc"]
        graded["roc_auc"] = at_risk(graded["roc_auc"], informative, risk)
    found = [
        _at_least(name, graded[name], limit, why, spent if name == "roc_auc" else "") for name, limit in floors.items()
    ]
    return [*found, _at_most("calibration_error", graded["calibration_error"], limits.max_calibration_error, why)]


def _graded(table: pd.DataFrame, params: Params) -> dict[str, Estimate]:
    if table.empty:
        return dict.fromkeys(METRICS, UNDEFINED)
    predictions = predictions_in(table, table["probability"].to_numpy())
    return estimate_metrics(predictions, params.evaluate.resamples, params.seed)


def at_risk(measured: Estimate, cases: float, risk: float) -> Estimate:
    """A share with its 95 % interval, its lower end moved to a stricter one-sided level.

    On the logit scale, on which the interval was made, by the quantiles of the t law with one degree of freedom fewer
    than informative cases; a share of exactly 1 by the bound of Clopper & Pearson.
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
    """Why a measure may have no value."""
    if table.empty:
        return "(there is no test case that neither model has seen)"
    return f"(all {len(table):,} test patches are of one class)" if not holds_both_classes(table["label"]) else ""


def _at_least(name: str, measured: Estimate, limit: float, why: str, spent: str = "") -> Gate:
    """A limit of 0 only asks for a value; floors at what a coin reaches must be exceeded."""
    value, low = measured["value"], measured["low"]
    passed = low is not None and (low > limit if limit and WANTED[name] == "above" else low >= limit)
    refused_for = f" ({spent})" if spent and not passed else ""
    return Gate(name, passed, value, limit, _interval(measured, why) + refused_for, low)


def _at_most(name: str, measured: Estimate, limit: float, why: str) -> Gate:
    value, high = measured["value"], measured["high"]
    return Gate(name, high is not None and high <= limit, value, limit, _interval(measured, why), high)


def _not_inferior(name: str, found: Shortfall, margin: float, beside: str = "") -> Gate:
    said = " ".join(filter(None, [beside, found.verdict(margin)]))
    return Gate(name, found.holds(margin), found.low, -margin, said)


def _interval(measured: Estimate, why: str) -> str:
    low, high = measured["low"], measured["high"]
    if low is None or high is None:
        return why
    unknown = " (too few cases to know how far it may be off)" if (low, high) == (0.0, 1.0) else ""
    return f"[{low:.3f}, {high:.3f}]{unknown}"


def reasons(gates: Collection[Gate]) -> list[str]:
    """Why a model is refused; empty where all gates hold."""
    return [gate.reason for gate in gates if not gate.passed]
