"""Test whether a model is non-inferior, that is, at most a margin worse than one that it may replace.

The difference and its 95 % interval come from `differences`. From them follow the standard error, the bound at the
level that this look may spend (see `spending`), and the power: how often an equally good model would pass. If two
models agree on all cases, as two perfect ones do, there is no standard error. Some share of cases may still differ; the
largest share at which n agreeing cases are seen with a chance of `risk` is 1 - risk ** (1 / n) (Clopper & Pearson
1934).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf, log, log1p, log10

import pandas as pd
from scipy import stats
from scipy.stats import rankdata

from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.params import Params
from histopipe.evaluation.case_parts import CaseParts, area_difference
from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.differences import agreeing_cases, difference
from histopipe.evaluation.intervals import LEVEL, Estimate, informative_cases
from histopipe.evaluation.metrics import Numbers, Predictions

COMPARED = "roc_auc"
UNDEFINED: Estimate = {"value": None, "low": None, "high": None}
HOPELESS = 0.05  # power below which messages state that a gate can only refuse
ONE_SIDED = (1 - LEVEL) / 2  # one-sided level of an end of a 95 % interval


@dataclass(frozen=True)
class AucDifference:
    """A model's ROC AUC minus that of a reference on the same cases, with its error.

    Attributes:
        value: the difference; None if it isn't defined.
        error: its standard error; infinite if it is unknown.
        degrees_of_freedom: degrees of freedom of the standard error.
        cases: how many cases were compared.
        risk: the bound's one-sided level.
        agreeing: the effective number of cases, if both models agree on all of them; 0 if some differ.
        why_no_risk: the reason why the risk is 0; empty otherwise.
    """

    value: float | None
    error: float
    degrees_of_freedom: float
    cases: int
    risk: float
    agreeing: float = 0.0
    why_no_risk: str = ""

    @property
    def low(self) -> float | None:
        """The one-sided lower confidence bound at the level `risk`; -1 if `risk` is 0, None if it isn't defined."""
        if self.value is None:
            return None
        return max(-1.0, self.value - self._reach) if self.risk > 0 else -1.0

    @property
    def _reach(self) -> float:
        if self.agreeing > 0:
            return 1 - self.risk ** (1 / self.agreeing)
        return self.quantile * self.error if self.error > 0 else 0.0

    @property
    def quantile(self) -> float:
        """The number of standard errors from the bound to the difference."""
        if self.risk <= 0 or self.degrees_of_freedom <= 0:
            return inf
        return float(stats.t.isf(self.risk, self.degrees_of_freedom))

    def holds(self, margin: float) -> bool:
        """Return whether the lower bound is at least `-margin`."""
        return self.low is not None and self.low >= -margin

    def power(self, margin: float) -> float:
        """Return the probability that a model exactly as good as the reference has its bound above `-margin`."""
        if self.agreeing > 0:
            return float(self.risk > 0 and self._reach <= margin)
        if self.error == 0:
            return 1.0
        if self.value is None or inf in (self.error, self.quantile):
            return 0.0
        return float(stats.t.cdf(margin / self.error - self.quantile, self.degrees_of_freedom))

    def cases_for_even_odds(self, margin: float) -> int | None:
        """Estimate how many such cases let an equally good model pass with a probability of 50 %; None if unknown."""
        if self.risk <= 0 or not 0 < margin < 1:
            return None
        if self.agreeing > 0:
            return ceil(self.cases / self.agreeing * log(self.risk) / log1p(-margin))
        if not 0 < self.error < inf:
            return None
        needed = self.cases * (float(stats.norm.isf(self.risk)) * self.error / margin) ** 2
        unit = 10 ** max(0, floor(log10(max(needed, 1))) - 1)
        return int(ceil(needed / unit) * unit)

    def verdict(self, margin: float) -> str:
        """Describe the difference, and what the comparison could have shown at all."""
        if self.value is None:
            return "(no test case of both kinds that neither model has seen)"
        shown = f"difference {self.value:+.3f}"
        if self.risk <= 0:
            return f"({shown}; {self.why_no_risk or 'this look may spend no risk'})"
        power = self.power(margin)
        chance = f"an equally good model passes in {power:.0%} of draws"
        if power >= HOPELESS or self.holds(margin):
            return f"({shown}; {chance})"
        needed = self.cases_for_even_odds(margin)
        if self.agreeing > 0:
            shown += ": no case tells the two apart, but others may"
            enough = f"about {needed:,} cases that agree like these would do" if needed else chance
            return f"({shown}; with {self.cases} test cases this gate can only refuse: {enough})"
        enough = f", about {needed:,} cases give it even odds" if needed else ""
        return f"({shown}; with {self.cases} test cases this gate can only refuse: {chance}{enough})"


def compare_roc_auc(
    table: pd.DataFrame, reference: Numbers, params: Params, risk: float, why_no_risk: str = ""
) -> AucDifference:
    """Compare a model with a reference.

    Two models that rank all patches alike, such as one network under two thresholds, don't differ, and their error is
    0.

    Args:
        table: patches that neither has seen: columns `case_id,label,probability,decision`, and
            those of `counted_cases`.
        reference: the reference's probability of the same patches, (patches,).
        params: parameters with the number of resamples and the seed.
        risk: the bound's one-sided level, 0 to 1; 0 if no more may be spent.
        why_no_risk: the reason why the risk is 0.
    """
    predictions = predictions_in(table, table["probability"].to_numpy())
    cases = predictions.case_count
    if not holds_both_classes(table["label"]):
        return AucDifference(None, inf, 0.0, cases, risk, why_no_risk=why_no_risk)
    freedom = max(0.0, informative_cases(predictions)[COMPARED] - 1)
    if is_same_order(predictions.probabilities, reference):
        return AucDifference(0.0, 0.0, freedom, cases, risk, why_no_risk=why_no_risk)
    parts = area_difference(predictions, predictions_in(table, reference))
    error = _standard_error(parts, freedom, params.seed)
    agreeing = agreeing_cases(parts) if freedom > 0 else 0.0
    return AucDifference(float(parts.value), error, freedom, cases, risk, agreeing, why_no_risk)


def _standard_error(parts: CaseParts, freedom: float, seed: int) -> float:
    """Return the standard error from the lower end of the 95 % interval; infinite if that is undefined."""
    low = difference(parts, seed)["low"]
    if freedom <= 0 or low is None or low <= -1.0:
        return inf
    return (parts.value - low) / float(stats.t.isf(ONE_SIDED, freedom))


def predictions_in(table: pd.DataFrame, probability: Numbers) -> Predictions:
    """Return the patches of a table with a model's probabilities, in the form that the metrics take."""
    return Predictions.from_arrays(table["label"], probability, table["decision"], counted_cases(table))


def is_same_order(first: Numbers, second: Numbers) -> bool:
    """Return whether two models rank the patches alike, ties included."""
    return bool((rankdata(first) == rankdata(second)).all())
