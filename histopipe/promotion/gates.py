"""What a model must show before it becomes champion: arithmetic on predictions, without a registry.

Choosing a model on test would spend the test set, so validation chooses and test only says no. Against the champion the
question is not "is it better?" but "is it at most so much worse?": the lower end of the paired interval must not lie
below the negative margin (non-inferiority; Piaggio et al. 2012, doi:10.1001/jama.2012.87802).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pandas as pd
from scipy.stats import rankdata

from histopipe.case_ids import are_known
from histopipe.evaluation.differences import difference
from histopipe.evaluation.intervals import Measured, draw_fewer, grade, informative_cases
from histopipe.evaluation.metrics import Numbers, Predictions, measure, measure_resamples
from histopipe.params import Params

COMPARED = "roc_auc"
UNDEFINED: Measured = {"value": None, "low": None, "high": None}

TITLES = {
    "leak": "cases shared between splits",
    "rolled_back": "rolled back",
    "data": "data beside the champion's",
    "quick": "trained under the caps of `quick`",
    "cases": "test cases that neither model has seen",
    "sensitivity": "sensitivity at the locked threshold",
    "calibration_error": "calibration error",
    "difference": "ROC AUC less the champion's, lower end of its interval",
}
WANTED = {"cases": "at least", "sensitivity": "at least", "calibration_error": "at most", "difference": "at least"}


@dataclass(frozen=True)
class Gate:
    """One condition and what was measured.

    Attributes:
        name: its key in tags.
        passed: whether it holds.
        measured: the number or word that decides; None where it isn't defined.
        limit: what `measured` is held against.
        interval: what stands beside `measured` for people.
    """

    name: str
    passed: bool
    measured: float | str | None
    limit: float | str
    interval: str = ""

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


def leak_gate(leaky: bool) -> Gate:
    """A model whose split shares cases measures memory, whatever its numbers."""
    return Gate("leak", not leaky, "yes" if leaky else "no", "no")


def rolled_back_gate(since: str | None, again: bool) -> Gate:
    """What was taken back stays back until it is asked for; `since`: when that was, if it was."""
    return Gate("rolled_back", since is None or again, since or "no", "no, or to be asked for with --again")


def unseen(table: pd.DataFrame, *seen: Iterable[str]) -> pd.DataFrame:
    """The rows of cases that none of the lists of case ids holds."""
    known = are_known(table["case_id"], [case for cases in seen for case in cases])
    return table[~known].reset_index(drop=True)


def judge(table: pd.DataFrame, champion: Numbers | None, params: Params) -> list[Gate]:
    """Hold a model's predictions against the limits of `promotion`.

    Args:
        table: test patches that neither model has seen: columns `case_id,label,probability,decision`.
        champion: its probability of the same patches, (patches,); None where there is no champion, and only the
            absolute limits count.
        params: hold the limits, resamples and seed.
    """
    limits = params.promotion
    cases = int(table["case_id"].nunique())
    graded = _graded(table, params)
    gates = [
        Gate("cases", cases >= limits.min_cases, cases, limits.min_cases),
        _at_least("sensitivity", graded["sensitivity"], limits.min_sensitivity),
        _at_most("calibration_error", graded["calibration_error"], limits.max_calibration_error),
    ]
    if champion is not None:
        gates.append(_not_inferior(paired_difference(table, champion, params), limits.margin))
    return gates


def _graded(table: pd.DataFrame, params: Params) -> dict[str, Measured]:
    if table.empty:
        return dict.fromkeys(("sensitivity", "calibration_error"), UNDEFINED)
    return grade(_predictions(table, table["probability"].to_numpy()), params.evaluate.resamples, params.seed)


def _predictions(table: pd.DataFrame, probability: Numbers) -> Predictions:
    return Predictions.of(table["label"], probability, table["decision"], table["case_id"])


def _at_least(name: str, measured: Measured, limit: float) -> Gate:
    value = measured["value"]
    return Gate(name, value is not None and value >= limit, value, limit, _interval(measured))


def _at_most(name: str, measured: Measured, limit: float) -> Gate:
    value = measured["value"]
    return Gate(name, value is not None and value <= limit, value, limit, _interval(measured))


def _not_inferior(measured: Measured, margin: float) -> Gate:
    low = measured["low"]
    said = f"(difference {measured['value']:+.3f})" if measured["value"] is not None else ""
    return Gate("difference", low is not None and low >= -margin, low, -margin, said)


def _interval(measured: Measured) -> str:
    return "" if measured["value"] is None else f"[{measured['low']:.3f}, {measured['high']:.3f}]"


def paired_difference(table: pd.DataFrame, champion: Numbers, params: Params) -> Measured:
    """ROC AUC of a model less that of the champion, measured in the same resamples of the same cases.

    Two models that put all patches into the same order, such as one network under two thresholds, don't differ, and
    there is nothing to be unsure of.
    """
    if table["label"].nunique() < 2:
        return UNDEFINED
    if same_order(table["probability"].to_numpy(), champion):
        return {"value": 0.0, "low": 0.0, "high": 0.0}
    one, other = _predictions(table, table["probability"].to_numpy()), _predictions(table, champion)
    drawn = draw_fewer(one.case_count, params.evaluate.resamples, params.seed)
    values = measure(one)[COMPARED] - measure(other)[COMPARED]
    spread = measure_resamples(one, drawn)[COMPARED] - measure_resamples(other, drawn)[COMPARED]
    return difference(values, spread, informative_cases(one)[COMPARED] - 1)


def same_order(one: Numbers, other: Numbers) -> bool:
    """Whether two models rank the patches alike, ties included."""
    return bool((rankdata(one) == rankdata(other)).all())


def reasons(gates: Collection[Gate]) -> list[str]:
    """Why a model is refused; empty where all gates hold."""
    return [gate.reason for gate in gates if not gate.passed]
