"""A model beside one that it may replace: how much worse it may be at most, and whether so few cases can tell.

The difference and its 95 % interval come from `paired_difference`. From them follow the standard error, the bound at
the level that this look may spend (see `spending`), and the power: how often an equally good model would pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf, log10

import pandas as pd
from scipy import stats
from scipy.stats import rankdata

from histopipe.core.params import Params
from histopipe.evaluation.case_parts import area_difference
from histopipe.evaluation.differences import difference
from histopipe.evaluation.intervals import LEVEL, Measured, informative_cases
from histopipe.evaluation.metrics import Numbers, Predictions

COMPARED = "roc_auc"
UNDEFINED: Measured = {"value": None, "low": None, "high": None}
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
    """

    value: float | None
    error: float
    freedom: float
    cases: int
    risk: float

    @property
    def low(self) -> float | None:
        """Return the bound below which the truth lies with a chance of `risk`; None where nothing is defined."""
        if self.value is None:
            return None
        return max(-1.0, self.value - self._reach) if self.risk > 0 else -1.0

    @property
    def _reach(self) -> float:
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
        if self.error == 0:
            return 1.0
        if self.value is None or inf in (self.error, self.quantile):
            return 0.0
        return float(stats.t.cdf(margin / self.error - self.quantile, self.freedom))

    def cases_for_even_odds(self, margin: float) -> int | None:
        """Estimate how many cases like these let an equally good model pass in half of all draws; None if unknown."""
        if not 0 < self.error < inf or self.risk <= 0 or margin <= 0:
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
            return f"({shown}; these test cases have had all the looks that `promotion.looks` plans: bring fresh ones)"
        power = self.power(margin)
        chance = f"an equally good model passes in {power:.0%} of draws"
        if power >= HOPELESS or self.holds(margin):
            return f"({shown}; {chance})"
        needed = self.cases_for_even_odds(margin)
        enough = f", about {needed:,} cases give it even odds" if needed else ""
        return f"({shown}; with {self.cases} test cases this gate can only refuse: {chance}{enough})"


def shortfall(table: pd.DataFrame, reference: Numbers, params: Params, risk: float) -> Shortfall:
    """Compare a model with a reference.

    Args:
        table: patches that neither has seen: columns `case_id,label,probability,decision`.
        reference: its probability of the same patches, (patches,).
        params: hold resamples and seed.
        risk: one-sided level of the bound, 0 to 1; 0 where no more may be spent.
    """
    cases = int(table["case_id"].nunique())
    found = paired_difference(table, reference, params)
    if found["value"] is None or found["low"] is None:
        return Shortfall(None, inf, 0.0, cases, risk)
    freedom = max(0.0, informative_cases(predictions_in(table, table["probability"].to_numpy()))[COMPARED] - 1)
    error = inf
    if freedom > 0 and found["low"] > -1.0:
        error = (found["value"] - found["low"]) / float(stats.t.isf(ONE_SIDED, freedom))
    return Shortfall(found["value"], error, freedom, cases, risk)


def paired_difference(table: pd.DataFrame, reference: Numbers, params: Params) -> Measured:
    """ROC AUC of a model less that of another, on the same cases.

    Two models that put all patches into the same order, such as one network under two thresholds, don't differ, and
    there is nothing to be unsure of.
    """
    if table["label"].nunique() < 2:
        return UNDEFINED
    if same_order(table["probability"].to_numpy(), reference):
        return {"value": 0.0, "low": 0.0, "high": 0.0}
    one, other = predictions_in(table, table["probability"].to_numpy()), predictions_in(table, reference)
    return difference(area_difference(one, other), params.seed)


def predictions_in(table: pd.DataFrame, probability: Numbers) -> Predictions:
    """The patches of a table under a model's probabilities, as the metrics take them."""
    return Predictions.of(table["label"], probability, table["decision"], table["case_id"])


def same_order(one: Numbers, other: Numbers) -> bool:
    """Whether two models rank the patches alike, ties included."""
    return bool((rankdata(one) == rankdata(other)).all())
