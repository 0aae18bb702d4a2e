"""The share of the allowed risk that each look at the same test cases may spend.

Every model that is compared with the champion on the same cases is another chance that a worse one passes by luck: at
one-sided 2.5 % each, a year of nightly trainings would let some through. The risk is therefore divided over the looks
that are planned: half of it is for the first look, and the rest is divided into shares that decrease with the number of
the look. The shares sum to the whole risk, so however the looks depend on each other, the chance of at least one false
promotion among them is at most that (Bonferroni's inequality, unequal shares; Foster & Stine 2008, "Alpha-investing",
doi:10.1111/j.1467-9868.2007.00643.x; Feng, Emerson & Simon 2021, doi:10.1111/biom.13379, of models that change often).
"""

from __future__ import annotations

import numpy as np


def risk_of_look(number: int, risk: float, looks: int) -> float:
    """Return the one-sided level at which a look is to be tested.

    Args:
        number: the number of this look at the cases, from 1.
        risk: the chance of a false promotion over all looks, 0 to 1.
        looks: the number of planned looks.

    Returns:
        `risk / 2` for the first look, then shares of the other half in the proportion 1 / number; 0 beyond the last.
    """
    if number <= 1:
        return risk / 2
    if number > looks:
        return 0.0
    return risk / 2 / number / float((1 / np.arange(2, looks + 1)).sum())


def why_spent(number: int, looks: int, unrecorded_looks: int) -> str:
    """Explain why a look has no risk of a false promotion left to spend, and name the remedy.

    Args:
        number: the number of this look at the cases, from 1.
        looks: the number of planned looks.
        unrecorded_looks: number of earlier looks whose cases weren't recorded; they count at every set of test cases.

    Returns:
        A clause for messages; empty if the look is one of those planned.
    """
    if number <= looks:
        return ""
    if unrecorded_looks < looks:
        return "these test cases have had all the looks that `promotion.looks` plans: bring fresh ones"
    return (
        f"{unrecorded_looks:,} earlier looks whose cases aren't recorded (versions from before there was a ledger) "
        f"count at every test case, also at fresh ones, and `promotion.looks: {looks}` in params.yaml plans no more: "
        f"raise it to {number:,} or above"
    )
