"""Whether maps mean something: their deletion and insertion curves against those of the same maps in other places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histopipe.evaluation.differences import difference
from histopipe.evaluation.intervals import Measured, draw_fewer, measured
from histopipe.evaluation.metrics import Codes, Numbers
from histopipe.explanation.removal import Predictor, area, moved, ranks, removal_curves, shares
from histopipe.store import Patches, Rows

if TYPE_CHECKING:
    from histopipe.explanation.maps import Maps

MOVES = 1  # places that each map is moved to
CURVES = ("deletion", "insertion")
BETTER, UNDECIDED, WORSE = "better than chance", "not told from chance", "worse than chance"


def spread_over_cases(case_ids: pd.Series, called: Codes, count: int, seed: int) -> Rows:
    """At most `count` places of patches, drawn at random, from all cases and both classes called as evenly as can be.

    A patch called negative tells less, since a blank one is mostly called so too; few cases are mostly positive.
    """
    drawn = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(case_ids))
    found = pd.DataFrame({"case": case_ids.to_numpy()[drawn], "called": called[drawn]})
    turn = found.groupby(["case", "called"]).cumcount().to_numpy()
    return np.sort(drawn[np.argsort(turn, kind="stable")[:count]])


def check_maps(
    patches: Patches, maps: Maps, called: Codes, case_ids: pd.Series, predict: Predictor, resamples: int, seed: int
) -> dict[str, Any]:
    """Compare maps with chance on the probability of the class that each patch is called.

    Args:
        patches: uint8 (patches, height, width, 3).
        maps: what speaks for the positive class at every pixel, (patches, height, width).
        called: 1 where the patch is called positive, else 0; there the map is turned into its negative.
        case_ids: of the patches.
        predict: probability of the positive class.
        resamples: of cases behind each interval.
        seed: decides where maps are moved and which cases are drawn.

    Returns:
        For `deletion` and `insertion` the area under the curve by the map (`map`) and by moved ones (`chance`), and
        the map's `gain`: by how much its deletion area is smaller or its insertion area larger; the mean `gain` of
        both, which decides the `verdict`; and the mean `curves`. Intervals are by case.
    """
    oriented = np.where(called[:, np.newaxis, np.newaxis] == 1, maps, -maps)
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    orders = [ranks(oriented, generator), *(ranks(moved(oriented, generator), generator) for _ in range(MOVES))]
    curves = [
        np.where(called[:, np.newaxis] == 1, positive, 1 - positive)
        for positive in removal_curves(patches, orders, predict)
    ]
    return _compared(dict(zip(CURVES, curves, strict=True)), case_ids, resamples, seed)


def _compared(curves: dict[str, Numbers], case_ids: pd.Series, resamples: int, seed: int) -> dict[str, Any]:
    """The result from curves by the map and by moved ones, (1 + moves, patches, steps + 1)."""
    means = _Means(case_ids, resamples, seed)
    found: dict[str, Any] = {"patches": len(case_ids), "cases": means.cases}
    gains = []
    for name, values in curves.items():
        own, chance = area(values[0]), area(values[1:].mean(axis=0))
        gains.append(chance - own if name == "deletion" else own - chance)
        found[name] = {"map": means.share(own), "chance": means.share(chance), "gain": means.gain(gains[-1])}
    found["gain"] = means.gain(np.mean(gains, axis=0))
    found["verdict"] = verdict(found["gain"])
    found["curves"] = {"shares": shares().tolist()} | {
        name: {"map": values[0].mean(axis=0).tolist(), "chance": values[1:].mean(axis=(0, 1)).tolist()}
        for name, values in curves.items()
    }
    return found


def verdict(gain: Measured) -> str:
    """What a gain and its interval say of maps: nothing, where the interval holds 0."""
    low, high = gain["low"] or 0.0, gain["high"] or 0.0
    return BETTER if low > 0 else WORSE if high < 0 else UNDECIDED


class _Means:
    """Means over patches, with intervals from resampling their cases."""

    def __init__(self, case_ids: pd.Series, resamples: int, seed: int) -> None:
        self._case, names = pd.factorize(case_ids, sort=True)
        self.cases = len(names)
        drawn = draw_fewer(self.cases, resamples, seed)
        weights = drawn[:, self._case]
        self._weights = weights / weights.sum(axis=1, keepdims=True)

    def share(self, values: Numbers) -> Measured:
        """Of numbers from 0 to 1."""
        mean = float(np.clip(values.mean(), 0, 1))  # rounding must not lead out of it
        return measured(mean, self._weights @ values, self.cases, 0.5 / len(values))

    def gain(self, values: Numbers) -> Measured:
        """Of numbers from -1 to 1, with the p-value of their being 0 on average."""
        return difference(float(values.mean()), self._weights @ values, self.cases - 1)
