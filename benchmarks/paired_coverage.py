"""Coverage of the intervals of differences: two networks on the same simulated cases.

The first network's log odds are those of `benchmarks.coverage`. The second errs alike: its cases' levels, its cases'
gaps and its patches' noise each correlate with the first's by `ALIKE`. It tells the classes apart as well, or better by
`--gain` (log odds, in spreads of patches of one class and case). What the champion's gate and the ranking rest on is
counted: how often the interval holds the true difference, and how often the plain percentiles of the same
resamples do, and DeLong's clustered test says p >= .05, which is the same question where there is no difference. The
test itself, with more kinds of cases and its rivals, is in `benchmarks.paired_tests`.

    python -m benchmarks.paired_coverage                # two equally good networks
    python -m benchmarks.paired_coverage --gain 0.3     # the second is better
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import numpy as np

from benchmarks.coverage import IDC, NOMINAL, TRUTH_CASES, Population, Sample, draw
from benchmarks.measuring import report
from histopipe.evaluation.case_parts import CaseMetrics
from histopipe.evaluation.delong import clustered_delong
from histopipe.evaluation.differences import Flips
from histopipe.evaluation.intervals import resample_fewer_cases
from histopipe.evaluation.metrics import Numbers, Predictions, compute_metrics, compute_metrics_of_resamples
from histopipe.reporting.comparison.pairs import COMPARED

ALIKE = 0.8
THRESHOLD = 0.5
METHODS = ("ours", "percentiles")
Pair = tuple[Predictions, Predictions]


def draw_pair(population: Population, cases: int, gain: float, random: np.random.Generator) -> Pair:
    """Draw the same patches, predicted by both networks."""
    first = draw(population, cases, random)
    own = draw_errors(first, population, random)
    expected = population.gap * (first.labels - 0.5)
    errors = ALIKE * (first.logits - expected) + np.sqrt(1 - ALIKE**2) * own
    second = Sample(first.labels, expected + gain * (first.labels - 0.5) + errors, first.cases, cases)
    return first.predict(THRESHOLD), second.predict(THRESHOLD)


def draw_errors(sample: Sample, population: Population, random: np.random.Generator) -> Numbers:
    """Draw errors of log odds, spread like the first network's and independent of them."""
    level = population.level_spread * random.normal(size=sample.case_count)
    gap = population.gap_spread * random.normal(size=sample.case_count)
    noise = random.normal(size=len(sample.labels))
    return level[sample.cases] + gap[sample.cases] * (sample.labels - 0.5) + noise


def true_differences(population: Population, gain: float, seed: int) -> dict[str, float]:
    """Compute the second network's metrics less the first's, on very many cases."""
    first, second = (
        compute_metrics(predictions)
        for predictions in draw_pair(population, TRUTH_CASES, gain, np.random.default_rng([seed, 2]))
    )
    return {name: second[name] - first[name] for name in COMPARED}


def held(pair: Pair, truth: dict[str, float], resamples: int, seed: int) -> Numbers:
    """Check whether our interval and the percentiles' hold the truth, (2, metrics): 1 or 0."""
    apart = CaseMetrics(pair[1], COMPARED).minus(CaseMetrics(pair[0], COMPARED))
    drawn = resample_fewer_cases(pair[0].case_count, resamples, seed)
    ones, others = (compute_metrics_of_resamples(predictions, drawn) for predictions in pair)
    measured = Flips([apart[name] for name in COMPARED], seed).estimates()
    answers = np.zeros((len(METHODS), len(COMPARED)))
    for column, (name, difference) in enumerate(zip(COMPARED, measured, strict=True)):
        low, high = np.nanquantile(others[name] - ones[name], [(1 - NOMINAL) / 2, (1 + NOMINAL) / 2])
        ends = (difference["low"] or 0.0, difference["high"] or 0.0), (low, high)
        answers[:, column] = [low <= truth[name] <= high for low, high in ends]
    return answers


def delong_finds_nothing(pair: Pair) -> float:
    """Return 1 where DeLong's clustered test gives p >= .05, else 0; NaN where it is undefined."""
    tested = clustered_delong(pair[1], pair[0])
    return float(tested.p >= 1 - NOMINAL) if tested else np.nan


def coverage(cases: int, data_sets: int, resamples: int, seed: int, gain: float) -> tuple[Numbers, float]:
    """Compute the shares of data sets whose intervals hold the truth, (2, metrics), and where DeLong finds nothing."""
    truth = true_differences(IDC, gain, seed)
    held_by_data_set, nothing = [], []
    for number in range(data_sets):
        pair = draw_pair(IDC, cases, gain, np.random.default_rng([seed, 3, cases, number]))
        held_by_data_set.append(held(pair, truth, resamples, number))
        nothing.append(delong_finds_nothing(pair))
        if number % 200 == 199:
            print(f"{cases} cases: {number + 1} data sets", file=sys.stderr, flush=True)
    shares: Numbers = np.mean(held_by_data_set, axis=0)
    return shares, float(np.nanmean(nothing))


@click.command()
@click.option("--cases", multiple=True, type=int, default=(25, 49, 200), show_default=True)
@click.option("--data-sets", default=2000, show_default=True)
@click.option("--resamples", default=1000, show_default=True)
@click.option("--seed", default=42, show_default=True)
@click.option("--gain", default=0.0, show_default=True, help="By how much the second network's gap is larger.")
def main(cases: tuple[int, ...], data_sets: int, resamples: int, seed: int, gain: float) -> None:
    """Measure the coverage; the last line is JSON and holds `ratio`: misses of percentiles over ours, all together."""
    began = time.perf_counter()
    by_count = {count: coverage(count, data_sets, resamples, seed, gain) for count in cases}
    ours, percentiles = np.mean([1 - shares for shares, _ in by_count.values()], axis=(0, 2))
    report(
        "paired_coverage",
        ratio=round(float(percentiles / max(ours, 1 / data_sets)), 2),
        data_sets=data_sets,
        resamples=resamples,
        gain=gain,
        truth={name: round(value, 4) for name, value in true_differences(IDC, gain, seed).items()},
        coverage={str(count): by_method(*answers) for count, answers in by_count.items()},
        seconds=round(time.perf_counter() - began),
    )


def by_method(shares: Numbers, nothing: float) -> dict[str, Any]:
    """Name the results of `coverage`."""
    rows = zip(METHODS, shares.round(4).tolist(), strict=True)
    named = {method: dict(zip(COMPARED, row, strict=True)) for method, row in rows}
    return {**named, "delong_finds_nothing": round(nothing, 4)}


if __name__ == "__main__":
    main()
