"""Whether maps mean something: their deletion and insertion curves against those of other maps.

Chance is the same maps in other places. What finds tissue beats chance without any network, so maps are also held
against `references`. The verdict on each rests on its own interval; to ask that maps be better than all of them takes
no correction (an intersection-union test; Berger 1982, doi:10.1080/00401706.1982.10487790).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe.data.store import Patches, Rows
from histopipe.evaluation.case_parts import mean_parts
from histopipe.evaluation.differences import difference
from histopipe.evaluation.explanation.record import MapsCheck
from histopipe.evaluation.explanation.references import oriented
from histopipe.evaluation.explanation.removal import Predictor, area, moved, ranks, removal_curves, shares
from histopipe.evaluation.intervals import Estimate, draw_fewer, estimate
from histopipe.evaluation.metrics import Codes, Numbers

if TYPE_CHECKING:
    from histopipe.evaluation.explanation.maps import Maps

MOVES = 1  # places that each map is moved to
CURVES = ("deletion", "insertion")
CHANCE = "chance"
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
    patches: Patches,
    maps: Maps,
    called: Codes,
    case_ids: pd.Series,
    predict: Predictor,
    resamples: int,
    seed: int,
    references: Mapping[str, Maps] | None = None,
) -> MapsCheck:
    """Compare maps with chance and with reference maps on the probability of the class that each patch is called.

    Args:
        patches: uint8 (patches, height, width, 3).
        maps: what speaks for the positive class at every pixel, (patches, height, width).
        called: 1 where the patch is called positive, else 0; there the map is turned into its negative.
        case_ids: of the patches.
        predict: probability of the positive class.
        resamples: of cases behind each interval.
        seed: decides where maps are moved and which cases are drawn.
        references: further maps to beat by name, with what is to go first highest.

    Returns:
        For `deletion` and `insertion` the area under the curve by the map (`map`), by moved ones (`chance`) and by
        each reference, and the map's `gain` on chance: by how much its deletion area is smaller or its insertion area
        larger; the mean `gain` of both; under `references` the mean `gain` on each reference and the `verdict` that
        follows; the whole `verdict`, on chance and each reference; and the mean `curves`. Intervals are by case.
    """
    own = oriented(maps, called)
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    others = references or {}
    orders = [ranks(own, generator), *(ranks(moved(own, generator), generator) for _ in range(MOVES))]
    orders += [ranks(other, generator) for other in others.values()]
    curves = [
        np.where(called[:, np.newaxis] == 1, positive, 1 - positive)
        for positive in removal_curves(patches, orders, predict)
    ]
    named = {name: _by_map(values, list(others)) for name, values in zip(CURVES, curves, strict=True)}
    return _compared(named, case_ids, resamples, seed)


def _by_map(values: Numbers, references: list[str]) -> dict[str, Numbers]:
    """Curves by name from those of all orders, (1 + moves + references, patches, steps + 1)."""
    chance = {"map": values[0], CHANCE: values[1 : 1 + MOVES].mean(axis=0)}
    return chance | dict(zip(references, values[1 + MOVES :], strict=True))


def _compared(curves: dict[str, dict[str, Numbers]], case_ids: pd.Series, resamples: int, seed: int) -> MapsCheck:
    """The result from curves by the map, by moved ones and by references, each (patches, steps + 1)."""
    means = _Means(case_ids, resamples, seed)
    areas = {name: {other: area(values) for other, values in by_map.items()} for name, by_map in curves.items()}
    shown = {name: {other: means.share(values) for other, values in by_map.items()} for name, by_map in areas.items()}
    for name, by_map in shown.items():
        by_map["gain"] = means.gain(_ahead(areas, CHANCE, name))
    others = [other for other in areas[CURVES[0]] if other != "map"]
    gains = {other: means.gain(np.mean([_ahead(areas, other, name) for name in CURVES], axis=0)) for other in others}
    gain = gains.pop(CHANCE)
    drawn = {
        name: {other: values.mean(axis=0).tolist() for other, values in by_map.items()}
        for name, by_map in curves.items()
    }
    return {
        "patches": len(case_ids),
        "cases": means.cases,
        "deletion": shown["deletion"],
        "insertion": shown["insertion"],
        "gain": gain,
        "references": {other: {"gain": each, "verdict": verdict(each, other)} for other, each in gains.items()},
        "verdict": "; ".join([verdict(gain), *(verdict(each, other) for other, each in gains.items())]),
        "curves": {"shares": shares().tolist(), "deletion": drawn["deletion"], "insertion": drawn["insertion"]},
    }


def _ahead(areas: Mapping[str, Mapping[str, Numbers]], other: str, curve: str) -> Numbers:
    """Return by how much the map's area is better than another's, patch by patch."""
    ahead = areas[curve]["map"] - areas[curve][other]
    return -ahead if curve == "deletion" else ahead


def verdict(gain: Estimate, other: str = CHANCE) -> str:
    """Say what a gain and its interval tell of maps beside `other` ones: nothing, where the interval holds 0."""
    low, high = gain["low"] or 0.0, gain["high"] or 0.0
    return f"better than {other}" if low > 0 else f"worse than {other}" if high < 0 else f"not told from {other}"


class _Means:
    """Means over patches, with intervals from resampling their cases."""

    def __init__(self, case_ids: pd.Series, resamples: int, seed: int) -> None:
        self._case, names = pd.factorize(case_ids, sort=True)
        self.cases, self._seed = len(names), seed
        drawn = draw_fewer(self.cases, resamples, seed)
        weights = drawn[:, self._case]
        self._weights = weights / weights.sum(axis=1, keepdims=True)

    def share(self, values: Numbers) -> Estimate:
        """Of numbers from 0 to 1."""
        mean = float(np.clip(values.mean(), 0, 1))  # rounding must not lead out of it
        return estimate(mean, self._weights @ values, self.cases, 0.5 / len(values))

    def gain(self, values: Numbers) -> Estimate:
        """Of numbers from -1 to 1, with the p-value of their being 0 on average."""
        return difference(mean_parts(values, self._case, self.cases), self._seed)
