"""The cost of correcting for several recipes: five of them on the same cases, and two rows derived from them.

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
from histopipe.evaluation.case_parts import CaseMetrics
from histopipe.evaluation.differences import Flips, holm
from histopipe.evaluation.metrics import Numbers, Predictions
from histopipe.reporting.comparison.pairs import SIGNIFICANCE

RECIPES, DERIVED = 5, 2
METHODS = ("uncorrected", "holm_of_all_rows", "holm", "ours")


def models(cases: int, gain: float, random: np.random.Generator) -> list[Predictions]:
    """Draw recipes, the first of them better by `gain`, and rows derived from two neighbours each."""
    sample = draw(IDC, cases, random)
    expected = IDC.gap * (sample.labels - 0.5)
    shared = np.sqrt(ALIKE) * (sample.logits - expected)
    logits_by_model = []
    for number in range(RECIPES):
        own = np.sqrt(1 - ALIKE) * draw_errors(sample, IDC, random)
        logits_by_model.append(expected + gain * (number == 0) * (sample.labels - 0.5) + shared + own)
    logits_by_model += [(logits_by_model[first] + logits_by_model[first + 1]) / 2 for first in range(1, 1 + DERIVED)]
    return [Sample(sample.labels, logits, sample.cases, cases).predict(THRESHOLD) for logits in logits_by_model]


def rejections(predictions: list[Predictions], seed: int) -> Numbers:
    """Test which pairs of recipes are separable, (methods, pairs): 1 or 0."""
    by_case = [CaseMetrics(model, ("roc_auc",)) for model in predictions]
    pairs = list(combinations(range(len(predictions)), 2))
    apart = [by_case[first].minus(by_case[second])["roc_auc"] for first, second in pairs]
    family = [number for number, (_, second) in enumerate(pairs) if second < RECIPES]
    single = np.array([difference["p"] for difference in Flips(apart, seed).estimates()], float)
    ours = Flips([apart[number] for number in family], seed).corrected_p_values()
    p_values = [single[family], holm(single)[family], holm(single[family]), ours]
    return (np.array(p_values) < SIGNIFICANCE).astype(np.float64)


def rates(cases: int, gain: float, data_sets: int, seed: int) -> dict[str, dict[str, float]]:
    """Compute family-wise error and power of each method."""
    differ = np.array([first == 0 and gain > 0 for first, _ in combinations(range(RECIPES), 2)])
    rejected = np.array(
        [
            rejections(models(cases, gain, np.random.default_rng([seed, 4, cases, number])), seed)
            for number in range(data_sets)
        ]
    )
    error = rejected[:, :, ~differ].max(axis=2).mean(axis=0)
    power = rejected[:, :, differ].mean(axis=(0, 2)) if differ.any() else np.full(len(METHODS), np.nan)
    print(f"{cases} cases, gain {gain}: error {error}, power {power}", file=sys.stderr, flush=True)
    return {
        name: {"error": round(float(error[number]), 4)} | ({"power": round(float(power[number]), 4)} if gain else {})
        for number, name in enumerate(METHODS)
    }


@click.command()
@click.option("--cases", multiple=True, type=int, default=(10, 25, 42), show_default=True)
@click.option("--data-sets", default=1000, show_default=True)
@click.option("--seed", default=42, show_default=True)
@click.option("--gain", default=0.4, show_default=True, help="By how much the better recipe's gap is larger.")
def main(cases: tuple[int, ...], data_sets: int, seed: int, gain: float) -> None:
    """Measure errors and power; the last line is JSON."""
    began = time.perf_counter()
    results = {
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
        rates=results,
        seconds=round(time.perf_counter() - began),
    )


if __name__ == "__main__":
    main()
