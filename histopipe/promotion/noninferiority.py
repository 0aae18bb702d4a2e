"""A model beside one that it may replace: how much worse it may be at most, and whether so few cases can tell.

The difference and its 95 % interval come from `differences`. From them follow the standard error, the bound at the
level that this look may spend (see `spending`), and the power: how often an equally good model would pass. Where no
case tells two models apart, as two perfect ones, there is no error to be had: a share of cases may still differ, so
large a one that n cases alike are seen with a chance of `risk`: 1 - risk ** (1 / n) (Clopper & Pearson 1934).
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
HOPELESS = 0.05  # power below which a gate is said to refuse whatever comes
ONE_SIDED = (1 - LEVEL) / 2  # level of an end of a 95 % interval


@dataclass(frozen=True)
class Shortfall:
    """A model's ROC AUC less that of a reference, on the same cases.

    Attributes:
        value: the difference; None where it isn't defined.
        error: its standard error; infinite where nothing is known of it.
        freedom: degrees of freedom of that error.
        cases: how many cases were compared.
        risk: one-sided level of the bound.
        alike: as how many cases of equal size those count that all tell the same of both models; 0 where some differ.
        spent: why the risk is 0, if it is.
    """

    value: float | None
    error: float
    freedom: float
    cases: int
    risk: float
    alike: float = 0.0
    spent: str = ""

    @property
    def low(self) -> float | None:
        """Return the bound below which the truth lies with a chance of `risk`; None where nothing is defined."""
        if self.value is None:
            return None
        return max(-1.0, self.value - self._reach) if self.risk > 0 else -1.0

    @property
    def _reach(self) -> float:
        if self.alike > 0:
            return 1 - self.risk ** (1 / self.alike)
        return self.quantile * self.error if self.error > 0 else 0.0

    @property
    def quantile(self) -> float:
        """Return by how many standard errors the bound lies below the difference."""
        return float(stats.t.isf(self.risk, self.freedom)) if self.risk > 0 and self.freedom > 0 else inf

    def holds(self, margin: float) -> bool:
        """Return whether the bound isn't below `-margin`."""
        return self.low is not None and self.low >= -margin

    def power(self, margin: float) -> float:
        """Return how often a model that is exactly as good as the reference has its bound above `-margin`."""
        if self.alike > 0:
            return float(self.risk > 0 and self._reach <= margin)
        if self.error == 0:
            return 1.0
        if self.value is None or inf in (self.error, self.quantile):
            return 0.0
        return float(stats.t.cdf(margin / self.error - self.quantile, self.freedom))

    def cases_for_even_odds(self, margin: float) -> int | None:
        """Estimate how many cases like these let an equally good model pass in half of all draws; None if unknown."""
        if self.risk <= 0 or not 0 < margin < 1:
            return None
        if self.alike > 0:
            return ceil(self.cases / self.alike * log(self.risk) / log1p(-margin))
        if not 0 < self.error < inf:
            return None
        needed = self.cases * (float(stats.norm.isf(self.risk)) * self.error / margin) ** 2
        unit = 10 ** max(0, floor(log10(max(needed, 1))) - 1)
        return int(ceil(needed / unit) * unit)

    def verdict(self, margin: float) -> str:
        """Say the difference and what the comparison could have shown at all."""
        if self.value is None:
            return "(no test case of both kinds that neither model has seen)"
        shown = f"difference {self.value:+.3f}"
        if self.risk <= 0:
            return f"({shown}; {self.spent or 'this look may spend no risk'})"
        power = self.power(margin)
        chance = f"an equally good model passes in {power:.0%} of draws"
        if power >= HOPELESS or self.holds(margin):
            return f"({shown}; {chance})"
        needed = self.cases_for_even_odds(margin)
        if self.alike > 0:
            shown += ": no case tells the two apart, but others may"
            enough = f"about {needed:,} cases that agree like these would do" if needed else chance
            return f"({shown}; with {self.cases} test cases this gate can only refuse: {enough})"
        enough = f", about {needed:,} cases give it even odds" if needed else ""
        return f"({shown}; with {self.cases} test cases this gate can only refuse: {chance}{enough})"


def shortfall(table: pd.DataFrame, reference: Numbers, params: Params, risk: float, spent: str = "") -> Shortfall:
    """Compare a model with a reference.

    Two models that put all patches into the same order, such as one network under two thresholds, don't differ, and
    there is nothing to be unsure of.

    Args:
        table: patches that neither has seen: columns `case_id,label,probability,decision`, and
            those of `counted_cases`.
        reference: its probability of the same patches, (patches,).
        params: hold resamples and seed.
        risk: one-sided level of the bound, 0 to 1; 0 where no more may be spent.
        spent: why it is 0.
    """
    predictions = predictions_in(table, table["probability"].to_numpy())
    cases = predictions.case_count
    if not holds_both_classes(table["label"]):
        return Shortfall(None, inf, 0.0, cases, risk, spent=spent)
    freedom = max(0.0, informative_cases(predictions)[COMPARED] - 1)
    if same_order(predictions.probabilities, reference):
        return Shortfall(0.0, 0.0, freedom, cases, risk, spent=spent)
    parts = area_difference(predictions, predictions_in(table, reference))
    error = _standard_error(parts, freedom, params.seed)
    alike = agreeing_cases(parts) if freedom > 0 else 0.0
    return Shortfall(float(parts.value), error, freedom, cases, risk, alike, spent)


def _standard_error(parts: CaseParts, freedom: float, seed: int) -> float:
    """By the lower end of the 95 % interval; infinite where that says nothing."""
    low = difference(parts, seed)["low"]
    if freedom <= 0 or low is None or low <= -1.0:
        return inf
    return (parts.value - low) / float(stats.t.isf(ONE_SIDED, freedom))


def predictions_in(table: pd.DataFrame, probability: Numbers) -> Predictions:
    """The patches of a table under a model's probabilities, as the metrics take them."""
    return Predictions.of(table["label"], probability, table["decision"], counted_cases(table))


def same_order(one: Numbers, other: Numbers) -> bool:
    """Whether two models rank the patches alike, ties included."""
    return bool((rankdata(one) == rankdata(other)).all())
