"""Coverage of the intervals on simulated cases whose truth is known.

A case has a number of patches, a share of positive ones, and a level: how dark its stain or how hard its tissue is
moves all its log odds alike. The parameters of `IDC` are fitted to the real sample of 9,387 patches of 230 cases
(sizes, shares) and to a network's log odds on cases it wasn't trained on (gap and spreads), see docs/evaluation.md.
The truth is measured on `TRUTH_CASES` cases, at the calibration and threshold that `VALIDATION_CASES` others choose.

    python -m benchmarks.coverage                # 2,000 data sets each at 25, 49 and 200 cases
    python -m benchmarks.coverage --offset 1     # of a network whose calibration is off
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import click
import numpy as np
from scipy import special, stats

from benchmarks.measuring import report
from histopipe.core.params import ThresholdRule
from histopipe.evaluation.calibration import Calibration, fit_calibration
from histopipe.evaluation.intervals import Estimate, estimate_metrics, leave_one_out, resample_fewer_cases
from histopipe.evaluation.metrics import (
    METRICS,
    Codes,
    Numbers,
    Predictions,
    compute_metrics,
    compute_metrics_of_resamples,
)
from histopipe.evaluation.thresholds import choose_threshold

TRUTH_CASES = 50_000
VALIDATION_CASES = 42  # 15 % of Kaggle's 279
NOMINAL = 0.95
Ends = tuple[float, float]  # low, high
AS_IT_IS = Calibration(1.0, 0.0)


@dataclass(frozen=True)
class Population:
    """The distribution that cases are drawn from.

    Attributes:
        patches: mean number of patches of a case.
        size_shape: of the gamma distribution of that number.
        positives: the two parameters of the beta distribution of a case's share of positive patches.
        correlation: of a case's number of patches and its share of positives, on the normal scale (a Gaussian copula).
        gap: mean log odds of positive patches less those of negative ones, in spreads of patches of one class and case.
        level_spread: standard deviation of the cases' levels, in the same unit.
        gap_spread: standard deviation of the cases' gaps.
        one_class: share of positive cases where every case has one class only; None where cases hold both.
        tails: degrees of freedom of the t law of levels and gaps; None for the normal law.
        size_spread: of the log-normal number of patches that stands in place of the gamma distribution; None for that.
        hardness: by how much the gap falls when the number of patches rises by one standard deviation.
    """

    patches: float
    size_shape: float
    positives: tuple[float, float]
    correlation: float
    gap: float
    level_spread: float
    gap_spread: float
    one_class: float | None = None
    tails: float | None = None
    size_spread: float | None = None
    hardness: float = 0.0


IDC = Population(40.8, 1.86, (1.31, 3.14), -0.3, gap=2.2, level_spread=0.35, gap_spread=0.7)


@dataclass(frozen=True)
class Sample:
    """Drawn patches with a network's log odds before calibration; `cases` numbers their cases from 0."""

    labels: Codes
    logits: Numbers
    cases: Codes
    case_count: int

    def predict(self, threshold: float, calibration: Calibration = AS_IT_IS) -> Predictions:
        """Apply calibration and threshold to the patches."""
        probabilities = calibration.apply(self.logits)
        decisions = (probabilities >= threshold).astype(np.int64)
        return Predictions(self.labels, probabilities, decisions, self.cases, self.case_count)


def draw(population: Population, cases: int, random: np.random.Generator) -> Sample:
    """Draw that many cases."""
    correlation = population.correlation
    size, share = random.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], cases, method="cholesky").T
    case = np.repeat(np.arange(cases), _patches(population, size))
    shares = special.betaincinv(*population.positives, special.ndtr(share))
    if population.one_class is not None:
        shares = (special.ndtr(share) < population.one_class).astype(np.float64)
    labels = (random.random(len(case)) < shares[case]).astype(np.int64)
    level = population.level_spread * _effects(population, cases, random)
    gap = population.gap + population.gap_spread * _effects(population, cases, random) - population.hardness * size
    logits = level[case] + gap[case] * (labels - 0.5) + random.normal(size=len(case))
    return Sample(labels, logits, case, cases)


def _patches(population: Population, size: Numbers) -> Codes:
    """Convert standard normal numbers into numbers of patches, (cases,)."""
    if population.size_spread is None:
        scale = population.patches / population.size_shape
        counts = stats.gamma.ppf(special.ndtr(size), population.size_shape, scale=scale)
    else:
        counts = population.patches * np.exp(population.size_spread * size - population.size_spread**2 / 2)
    return np.maximum(1, np.rint(counts)).astype(np.int64)


def _effects(population: Population, cases: int, random: np.random.Generator) -> Numbers:
    """Draw random effects of cases with a standard deviation of 1, (cases,)."""
    if population.tails is None:
        return random.normal(size=cases)
    return random.standard_t(population.tails, cases) / np.sqrt(population.tails / (population.tails - 2))


def operating_point(population: Population, random: np.random.Generator) -> tuple[float, Calibration]:
    """Choose threshold and calibration on `VALIDATION_CASES` cases."""
    sample = draw(population, VALIDATION_CASES, random)
    calibration = fit_calibration(sample.logits, sample.labels)
    rule = ThresholdRule(name="youden")
    return choose_threshold(rule, sample.labels, calibration.apply(sample.logits)), calibration


class IntervalInput(NamedTuple):
    """The input of an interval.

    Attributes:
        value: value of a metric on all patches.
        resampled: its value on each resample.
        left_out: its value with each case left out in turn.
        own: the product's result.
    """

    value: float
    resampled: Numbers
    left_out: Numbers
    own: Estimate


def ours(data: IntervalInput) -> Ends:
    """Return the product's interval."""
    return data.own["low"] or 0.0, data.own["high"] or 0.0


def percentiles(data: IntervalInput) -> Ends:
    """Return the plain bootstrap's interval: the middle 95 % of the resamples."""
    low, high = np.nanquantile(data.resampled, [(1 - NOMINAL) / 2, (1 + NOMINAL) / 2])
    return float(low), float(high)


def symmetric(data: IntervalInput) -> Ends:
    """Return value ± standard deviation of the resamples times the normal quantile, not on the logit scale."""
    reach = float(stats.norm.ppf((1 + NOMINAL) / 2) * np.nanstd(data.resampled, ddof=1))
    return data.value - reach, data.value + reach


def jackknife(data: IntervalInput) -> Ends:
    """Compute the error from leaving out each case, on the logit scale, times a t quantile.

    MacKinnon, Nielsen & Webb 2023.
    """
    logits = special.logit(data.left_out[~np.isnan(data.left_out)])
    error = np.sqrt((len(logits) - 1) / len(logits) * ((logits - logits.mean()) ** 2).sum())
    reach = stats.t.ppf((1 + NOMINAL) / 2, len(logits) - 1) * error
    centre = special.logit(data.value)
    return float(special.expit(centre - reach)), float(special.expit(centre + reach))


METHODS: dict[str, Callable[[IntervalInput], Ends]] = {
    "ours": ours,
    "percentiles": percentiles,
    "symmetric": symmetric,
    "jackknife": jackknife,
}


def held(predictions: Predictions, truth: dict[str, float], resamples: int, seed: int) -> Numbers:
    """Check which methods' intervals hold the truth, (methods, metrics): 1 or 0, NaN where there is no value."""
    count = predictions.case_count
    draws, own = resample_fewer_cases(count, resamples, seed), estimate_metrics(predictions, resamples, seed)
    spread, left_out = (compute_metrics_of_resamples(predictions, drawn) for drawn in (draws, leave_one_out(count)))
    answers = np.full((len(METHODS), len(METRICS)), np.nan)
    for column, name in enumerate(METRICS):
        value = own[name]["value"]
        if value is not None:
            data = IntervalInput(value, spread[name], left_out[name], own[name])
            ends = [method(data) for method in METHODS.values()]
            answers[:, column] = [low <= truth[name] <= high for low, high in ends]
    return answers


def coverage(
    population: Population,
    cases: int,
    data_sets: int,
    resamples: int,
    seed: int,
    truth_cases: int = TRUTH_CASES,
    offset: float = 0.0,
) -> Numbers:
    """Compute the share of data sets whose intervals hold the truth, (methods, metrics).

    Args:
        population: distribution that cases are drawn from.
        cases: number of cases of each data set.
        data_sets: number of simulated data sets.
        resamples: number of resamples of each interval.
        seed: the same seed gives the same data sets.
        truth_cases: number of cases that the truth is measured on.
        offset: added to the calibrated log odds, so that they are wrong by that much.
    """
    threshold, calibration = operating_point(population, np.random.default_rng([seed, 1]))
    calibration = calibration._replace(offset=calibration.offset + offset)
    truth = compute_metrics(
        draw(population, truth_cases, np.random.default_rng([seed, 2])).predict(threshold, calibration)
    )
    held_by_data_set = []
    for number in range(data_sets):
        sample = draw(population, cases, np.random.default_rng([seed, 3, cases, number]))
        held_by_data_set.append(held(sample.predict(threshold, calibration), truth, resamples, number))
        if number % 200 == 199:
            print(f"{cases} cases: {number + 1} data sets", file=sys.stderr, flush=True)
    shares: Numbers = np.nanmean(held_by_data_set, axis=0)
    return shares


@click.command()
@click.option("--cases", multiple=True, type=int, default=(25, 49, 200), show_default=True, help="Cases of a data set.")
@click.option("--data-sets", default=2000, show_default=True, help="Simulated data sets of each kind.")
@click.option("--resamples", default=1000, show_default=True, help="Resamples behind each interval.")
@click.option("--seed", default=42, show_default=True)
@click.option("--offset", default=0.0, show_default=True, help="Added to calibrated log odds.")
def main(cases: tuple[int, ...], data_sets: int, resamples: int, seed: int, offset: float) -> None:
    """Measure the coverage; the last line is JSON and holds `ratio`: misses of percentiles over ours, all together."""
    began = time.perf_counter()
    by_count = {count: coverage(IDC, count, data_sets, resamples, seed, offset=offset) for count in cases}
    shares = {
        str(count): {
            method: dict(zip(METRICS, np.round(row, 4).tolist(), strict=True))
            for method, row in zip(METHODS, rows, strict=True)
        }
        for count, rows in by_count.items()
    }
    misses = {
        method: np.mean([1 - rows[row_number] for rows in by_count.values()])
        for row_number, method in enumerate(METHODS)
    }
    report(
        "coverage",
        ratio=round(float(misses["percentiles"] / max(misses["ours"], 1 / data_sets)), 2),
        data_sets=data_sets,
        resamples=resamples,
        offset=offset,
        error=round(float(np.sqrt(NOMINAL * (1 - NOMINAL) / data_sets)), 4),
        coverage=shares,
        seconds=round(time.perf_counter() - began),
    )


if __name__ == "__main__":
    main()
