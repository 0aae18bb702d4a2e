"""What correcting for several recipes costs: five of them on the same cases, and two rows that follow from them.

Recipes err alike, as the networks of `benchmarks.paired_coverage` do; a descriptive row lies between two of them. None
is better, or the first one is by `--gain`. Counted over data sets: how often at least one pair of equally good recipes
is called separable (the family-wise error), and how many of the pairs that differ are (the power). All use the same
turns of cases: uncorrected; Holm over the pairs of all rows, over those of recipes; step-down maxT over these (`ours`).

    python -m benchmarks.families
"""

from __future__ import annotations

import sys
import time
from itertools import combinations

import click
import numpy as np

from benchmarks.coverage import IDC, Sample, draw
from benchmarks.measuring import report
from benchmarks.paired_coverage import ALIKE, THRESHOLD, draw_errors
from histopipe.evaluation.case_parts import ByCase
from histopipe.evaluation.differences import Flips, holm
from histopipe.evaluation.metrics import Numbers, Predictions
from histopipe.reporting.comparison.pairs import SIGNIFICANCE

RECIPES, DERIVED = 5, 2
METHODS = ("uncorrected", "holm_of_all_rows", "holm", "ours")


def models(cases: int, gain: float, random: np.random.Generator) -> list[Predictions]:
    """Recipes, the first of them better by `gain`, and rows that follow from two neighbours each."""
    sample = draw(IDC, cases, random)
    expected = IDC.gap * (sample.labels - 0.5)
    shared = np.sqrt(ALIKE) * (sample.logits - expected)
    found = []
    for number in range(RECIPES):
        own = np.sqrt(1 - ALIKE) * draw_errors(sample, IDC, random)
        found.append(expected + gain * (number == 0) * (sample.labels - 0.5) + shared + own)
    found += [(found[place] + found[place + 1]) / 2 for place in range(1, 1 + DERIVED)]
    return [Sample(sample.labels, logits, sample.cases, cases).graded(THRESHOLD) for logits in found]


def rejections(graded: list[Predictions], seed: int) -> Numbers:
    """Whether each pair of recipes is called separable, (methods, pairs): 1 or 0."""
    by_case = [ByCase(each, ("roc_auc",)) for each in graded]
    places = list(combinations(range(len(graded)), 2))
    apart = [by_case[one].less(by_case[other])["roc_auc"] for one, other in places]
    family = [number for number, (_, other) in enumerate(places) if other < RECIPES]
    single = np.array([each["p"] for each in Flips(apart, seed).measured()], float)
    ours = Flips([apart[number] for number in family], seed).corrected()
    p_values = [single[family], holm(single)[family], holm(single[family]), ours]
    return (np.array(p_values) < SIGNIFICANCE).astype(np.float64)


def rates(cases: int, gain: float, data_sets: int, seed: int) -> dict[str, dict[str, float]]:
    """Family-wise error and power of each method."""
    differ = np.array([one == 0 and gain > 0 for one, _ in combinations(range(RECIPES), 2)])
    found = np.array(
        [
            rejections(models(cases, gain, np.random.default_rng([seed, 4, cases, number])), seed)
            for number in range(data_sets)
        ]
    )
    error = found[:, :, ~differ].max(axis=2).mean(axis=0)
    power = found[:, :, differ].mean(axis=(0, 2)) if differ.any() else np.full(len(METHODS), np.nan)
    print(f"{cases} cases, gain {gain}: error {error}, power {power}", file=sys.stderr, flush=True)
    return {
        name: {"error": round(float(error[place]), 4)} | ({"power": round(float(power[place]), 4)} if gain else {})
        for place, name in enumerate(METHODS)
    }


@click.command()
@click.option("--cases", multiple=True, type=int, default=(10, 25, 42), show_default=True)
@click.option("--data-sets", default=1000, show_default=True)
@click.option("--seed", default=42, show_default=True)
@click.option("--gain", default=0.4, show_default=True, help="By how much the better recipe's gap is larger.")
def main(cases: tuple[int, ...], data_sets: int, seed: int, gain: float) -> None:
    """Measure errors and power; the last line is JSON."""
    began = time.perf_counter()
    found = {
        f"{count} cases, {name}": rates(count, better, data_sets, seed)
        for count in cases
        for name, better in (("all alike", 0.0), ("one better", gain))
    }
    report(
        "families",
        "no rival: shares of data sets",
        data_sets=data_sets,
        gain=gain,
        error=round(float(np.sqrt(SIGNIFICANCE * (1 - SIGNIFICANCE) / data_sets)), 4),
        rates=found,
        seconds=round(time.perf_counter() - began),
    )


if __name__ == "__main__":
    main()
