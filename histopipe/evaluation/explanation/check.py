"""A check of maps of evidence, which compares their deletion and insertion curves with those of other maps.

Chance means the same maps in other places. Any method that finds tissue beats chance without a network, so maps are
also compared with `references`. The verdict on each is based on its own interval. Requiring that maps be better than
all of them needs no correction (an intersection-union test; Berger 1982, doi:10.1080/00401706.1982.10487790).
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
from histopipe.evaluation.explanation.references import orient_maps
from histopipe.evaluation.explanation.removal import (
    Predictor,
    area_under_curve,
    move_maps,
    rank_pixels,
    removal_curves,
    removal_shares,
)
from histopipe.evaluation.intervals import Estimate, estimate, resample_fewer_cases
from histopipe.evaluation.metrics import Codes, Numbers

if TYPE_CHECKING:
    from histopipe.evaluation.explanation.maps import Maps

MOVES = 1  # random positions to which each map is moved
CURVES = ("deletion", "insertion")
CHANCE = "chance"
BETTER, UNDECIDED, WORSE = "better than chance", "not distinguishable from chance", "worse than chance"


def sample_over_cases(case_ids: pd.Series, called: Codes, count: int, seed: int) -> Rows:
    """Sample up to `count` patches at random, as evenly as possible over cases and predicted classes.

    Patches called negative are less informative, since a blank patch is mostly called negative too, and in most cases
    they are the majority.

    Returns:
        Positions of the patches, sorted.
    """
    drawn = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(case_ids))
    patches = pd.DataFrame({"case": case_ids.to_numpy()[drawn], "called": called[drawn]})
    turn = patches.groupby(["case", "called"]).cumcount().to_numpy()
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
        maps: evidence for the positive class at every pixel, (patches, height, width).
        called: 1 if the patch is called positive; else 0, and the sign of its map is changed.
        case_ids: the case of each patch.
        predict: function that returns the probability of the positive class.
        resamples: number of resamples for each interval.
        seed: seed of the moves and of the resampling.
        references: further maps to beat by name, where the pixels to remove first have the highest values.

    Returns:
        For `deletion` and `insertion`: the area under the curve by the map (`map`), by moved maps (`chance`) and by
        each reference, and the map's `gain` on chance, which is how much smaller its deletion area or how much larger
        its insertion area is. Further the mean `gain` of both, the mean `gain` on each of the `references` with its
        `verdict`, the whole `verdict` on chance and each reference, and the mean `curves`. Intervals are by case.
    """
    own = orient_maps(maps, called)
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    others = references or {}
    orders = [rank_pixels(own, generator), *(rank_pixels(move_maps(own, generator), generator) for _ in range(MOVES))]
    orders += [rank_pixels(other, generator) for other in others.values()]
    curves = [
        np.where(called[:, np.newaxis] == 1, positive, 1 - positive)
        for positive in removal_curves(patches, orders, predict)
    ]
    named = {name: _by_map(values, list(others)) for name, values in zip(CURVES, curves, strict=True)}
    return _compare(named, case_ids, resamples, seed)


def _by_map(values: Numbers, references: list[str]) -> dict[str, Numbers]:
    """Name the curves of all orders, (1 + moves + references, patches, steps + 1)."""
    chance = {"map": values[0], CHANCE: values[1 : 1 + MOVES].mean(axis=0)}
    return chance | dict(zip(references, values[1 + MOVES :], strict=True))


def _compare(curves: dict[str, dict[str, Numbers]], case_ids: pd.Series, resamples: int, seed: int) -> MapsCheck:
    """Compute the result from curves by the map, by moved maps and by references, each (patches, steps + 1)."""
    means = _Means(case_ids, resamples, seed)
    areas = {
        name: {other: area_under_curve(values) for other, values in by_map.items()} for name, by_map in curves.items()
    }
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
        "references": {other: {"gain": ahead, "verdict": verdict(ahead, other)} for other, ahead in gains.items()},
        "verdict": "; ".join([verdict(gain), *(verdict(ahead, other) for other, ahead in gains.items())]),
        "curves": {"shares": removal_shares().tolist(), "deletion": drawn["deletion"], "insertion": drawn["insertion"]},
    }


def _ahead(areas: Mapping[str, Mapping[str, Numbers]], other: str, curve: str) -> Numbers:
    """Return how much better the map's area is than another map's, patch by patch."""
    ahead = areas[curve]["map"] - areas[curve][other]
    return -ahead if curve == "deletion" else ahead


def verdict(gain: Estimate, other: str = CHANCE) -> str:
    """Return the verdict on maps: `better than`, `worse than`, or neither if the interval of their gain contains 0."""
    low, high = gain["low"] or 0.0, gain["high"] or 0.0
    if low > 0:
        return f"better than {other}"
    return f"worse than {other}" if high < 0 else f"not distinguishable from {other}"


class _Means:
    """Means over patches, with intervals from resampling their cases."""

    def __init__(self, case_ids: pd.Series, resamples: int, seed: int) -> None:
        self._case, names = pd.factorize(case_ids, sort=True)
        self.cases, self._seed = len(names), seed
        drawn = resample_fewer_cases(self.cases, resamples, seed)
        weights = drawn[:, self._case]
        self._weights = weights / weights.sum(axis=1, keepdims=True)

    def share(self, values: Numbers) -> Estimate:
        """Estimate the mean of numbers from 0 to 1."""
        mean = float(np.clip(values.mean(), 0, 1))  # rounding must not exceed the range
        return estimate(mean, self._weights @ values, self.cases, 0.5 / len(values))

    def gain(self, values: Numbers) -> Estimate:
        """Estimate the mean of numbers from -1 to 1, with the p-value of a mean of 0."""
        return difference(mean_parts(values, self._case, self.cases), self._seed)
