"""How much of the allowed risk each look at the same test cases may spend.

Every model that is held against the champion on the same cases is another chance that a worse one passes by luck: at
one-sided 2.5 % each, a year of nights lets some through for certain. So the risk is shared out over the looks that are
planned: half of it for the first, as though there were no others; the rest in shares that fall with the number of the
look. They sum to the whole risk, so that whatever the looks have to do with each other the chance of a single false
promotion among them is at most that (Bonferroni's inequality, unequal shares; Foster & Stine 2008, "Alpha-investing",
doi:10.1111/j.1467-9868.2007.00643.x; Feng, Emerson & Simon 2021, doi:10.1111/biom.13379, of models that change often).
"""

from __future__ import annotations

import numpy as np


def risk_of_look(number: int, risk: float, looks: int) -> float:
    """Return the one-sided level at which a look is to be tested.

    Args:
        number: of the look at these cases, from 1.
        risk: chance of a false promotion over all looks, 0 to 1.
        looks: how many are planned.

    Returns:
        `risk / 2` for the first look, then shares of the other half in the proportion 1 / number; 0 beyond the last.
    """
    if number <= 1:
        return risk / 2
    if number > looks:
        return 0.0
    return risk / 2 / number / float((1 / np.arange(2, looks + 1)).sum())


def why_spent(number: int, looks: int, everywhere: int) -> str:
    """Say why a look may spend nothing any more, and what helps.

    Args:
        number: of the look at these cases, from 1.
        looks: how many are planned.
        everywhere: earlier looks of which nobody knows the cases, so that they count at each, also at fresh ones.

    Returns:
        A clause; empty where the look is one of those planned.
    """
    if number <= looks:
        return ""
    if everywhere < looks:
        return "these test cases have had all the looks that `promotion.looks` plans: bring fresh ones"
    return (
        f"{everywhere:,} earlier looks of which no cases are written down (versions from before there was a ledger) "
        f"count at every test case, fresh ones too, and `promotion.looks: {looks}` in params.yaml plans no more: "
        f"raise it to {number:,} or above"
    )
