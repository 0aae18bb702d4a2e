"""How often the test of two models' ROC AUC finds a difference: where there is none, and where there is one.

Networks are drawn as in `benchmarks.paired_coverage`. In every regime the same data sets are tested by the product
(`ours`), by what it did before (`former`, on the first data sets only: spread over resamples of cases, t quantile for
their number by Kish), by the standard error of the parts of `ours` with a t quantile for all cases but one (`t`), and
by DeLong's test in Obuchowski's form; also how often the interval of `ours` holds the true difference.

    python -m benchmarks.paired_tests                # two equally good networks: the level
    python -m benchmarks.paired_tests --gain 0.4     # the second is better: the power
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import click
import numpy as np
from scipy import stats

from benchmarks.coverage import IDC, NOMINAL, TRUTH_CASES, Population
from benchmarks.measuring import report
from benchmarks.paired_coverage import Pair, draw_pair
from histopipe.evaluation.case_parts import CaseParts, area_difference
from histopipe.evaluation.delong import clustered_delong, is_applicable
from histopipe.evaluation.differences import Flips
from histopipe.evaluation.intervals import informative_cases, resample_fewer_cases
from histopipe.evaluation.metrics import Numbers, Predictions

METHODS = ("ours", "former", "t", "delong")
FORMER_DATA_SETS = 1000
AT_ONCE = 100  # data sets whose parts are turned together
ONE_CLASS = replace(IDC, one_class=0.5)
HEAVY = replace(IDC, size_spread=1.0)

REGIMES: dict[str, tuple[Population, int]] = {
    "8 cases": (IDC, 8),
    "10 cases": (IDC, 10),
    "12 one-class cases": (ONE_CLASS, 12),
    "15 cases": (IDC, 15),
    "24 one-class cases": (ONE_CLASS, 24),
    "25 cases": (IDC, 25),
    "25 heavy-tailed cases": (HEAVY, 25),
    "25 cases, AUC .99": (replace(IDC, gap=3.8), 25),
    "8 cases, AUC .99": (replace(IDC, gap=3.8), 8),
    "42 cases": (IDC, 42),
    "50 cases": (IDC, 50),
    "50 cases, AUC .99": (replace(IDC, gap=3.8), 50),
    "50 one-class cases": (ONE_CLASS, 50),
    "50 heavy-tailed cases": (HEAVY, 50),
    "100 cases": (IDC, 100),
    "100 heavy-tailed cases": (HEAVY, 100),
    "200 cases": (IDC, 200),
}


class Tested(NamedTuple):
    """The results on one data set.

    Attributes:
        parts: of the second network's ROC AUC less the first's.
        p: of `METHODS` but the first; NaN where a method says nothing.
        shown: whether the product shows DeLong's.
    """

    parts: CaseParts
    p: tuple[float, float, float]
    shown: bool


def pairs(population: Population, cases: int, gain: float, data_sets: int, seed: int) -> Iterator[Pair]:
    """Draw data sets with patches of both classes."""
    for number in range(data_sets):
        random = np.random.default_rng([seed, 3, cases, number])
        pair = draw_pair(population, cases, gain, random)
        while pair[0].labels.min() == pair[0].labels.max():
            pair = draw_pair(population, cases, gain, random)
        yield pair


def tested(pair: Pair, resamples: int) -> Tested:
    """Apply each method to a data set; without resamples, all but the former one."""
    parts = area_difference(pair[1], pair[0])
    delong = clustered_delong(pair[1], pair[0])
    before = former(pair, resamples) if resamples else np.nan
    return Tested(
        parts, (before, by_t(parts), delong.p if delong else np.nan), delong is not None and is_applicable(pair[0])
    )


def by_t(parts: CaseParts) -> float:
    """Compute the p-value of the same parts with a t quantile for all cases but one."""
    count = len(parts.parts)
    error = np.sqrt(count / (count - 1) * ((parts.parts - parts.value * parts.weights) ** 2).sum())
    return float(2 * stats.t.sf(abs(parts.value) / error, count - 1)) if error > 0 else 1.0


def former(pair: Pair, resamples: int) -> float:
    """Compute the p-value from the spread over resamples of cases, with a t quantile."""
    drawn = resample_fewer_cases(pair[0].case_count, resamples, 1)
    once = np.ones((1, pair[0].case_count))
    (value,), spread = (areas(pair[1], draws) - areas(pair[0], draws) for draws in (once, drawn))
    freedom = informative_cases(pair[0])["roc_auc"] - 1
    error = np.std(spread[~np.isnan(spread)], ddof=1)
    return float(2 * stats.t.sf(abs(value) / error, freedom)) if freedom >= 1 and error > 0 else 1.0


def areas(predictions: Predictions, drawn: Numbers) -> Numbers:
    """Compute the ROC AUC of every resample, from the ordered pairs of positives and negatives of every two cases."""
    positive = predictions.labels == 1
    order = np.argsort(predictions.probabilities[~positive])
    counts = np.zeros((len(order) + 1, predictions.case_count))
    counts[np.arange(1, len(order) + 1), predictions.cases[~positive][order]] = 1
    below = np.searchsorted(predictions.probabilities[~positive][order], predictions.probabilities[positive])
    right = np.zeros((predictions.case_count, predictions.case_count))
    np.add.at(right, predictions.cases[positive], np.cumsum(counts, axis=0)[below])
    sizes = [drawn @ predictions.per_case(which) for which in (positive, ~positive)]
    with np.errstate(invalid="ignore"):
        values: Numbers = np.einsum("rc,rc->r", drawn @ right, drawn) / (sizes[0] * sizes[1])
    return values


def shares(
    population: Population, cases: int, gain: float, data_sets: int, resamples: int, seed: int
) -> dict[str, float]:
    """Compute how often each method finds a difference, and how often our interval holds the true one."""
    truth = true_difference(population, gain, seed)
    results: list[Tested] = []
    seen: list[tuple[bool, bool]] = []
    for number, pair in enumerate(pairs(population, cases, gain, data_sets, seed), start=1):
        results.append(tested(pair, resamples if number <= FORMER_DATA_SETS else 0))
        if number % AT_ONCE == 0 or number == data_sets:
            seen += _answers(results[len(seen) :], truth, seed)
    p_values = np.array([answer.p for answer in results])
    rejected = np.where(np.isnan(p_values), np.nan, p_values < 1 - NOMINAL)
    ours, held = np.mean(seen, axis=0)
    shown = [answer.shown for answer in results]
    values = [ours, *np.nanmean(rejected, axis=0), held, np.mean(shown)]
    names = [*METHODS, "held", "delong_shown"]
    answer = dict(zip(names, np.round(values, 4).tolist(), strict=True)) | {"true_difference": round(truth, 4)}
    print(f"{cases} cases: {answer}", file=sys.stderr, flush=True)
    return answer


def _answers(results: Sequence[Tested], truth: float, seed: int) -> list[tuple[bool, bool]]:
    """Return for each data set whether we find a difference, and whether our interval holds the true one."""
    measured = Flips([result.parts for result in results], seed).estimates()
    return [(row["p"] < 1 - NOMINAL, row["low"] <= truth <= row["high"]) for row in measured]  # type: ignore[operator]


def true_difference(population: Population, gain: float, seed: int) -> float:
    """Compute the second network's ROC AUC less the first's, on very many cases."""
    if gain == 0:
        return 0.0
    first, second = draw_pair(population, TRUTH_CASES, gain, np.random.default_rng([seed, 2]))
    return area_difference(second, first).value


@click.command()
@click.option("--regime", "chosen", multiple=True, type=click.Choice(list(REGIMES)), help="All by default.")
@click.option("--data-sets", default=4000, show_default=True)
@click.option("--resamples", default=400, show_default=True, help="Of the former method.")
@click.option("--seed", default=42, show_default=True)
@click.option("--gain", default=0.0, show_default=True, help="By how much the second network's gap is larger.")
def main(chosen: tuple[str, ...], data_sets: int, resamples: int, seed: int, gain: float) -> None:
    """Test both networks in every regime; the last line is JSON."""
    began = time.perf_counter()
    results = {
        name: shares(*REGIMES[name], gain=gain, data_sets=data_sets, resamples=resamples, seed=seed)
        for name in chosen or REGIMES
    }
    report(
        "paired_tests",
        "no rival: shares of data sets",
        data_sets=data_sets,
        resamples=resamples,
        gain=gain,
        error={
            name: round(float(np.sqrt(NOMINAL * (1 - NOMINAL) / count)), 4)
            for name, count in {"ours": data_sets, "former": min(data_sets, FORMER_DATA_SETS)}.items()
        },
        shares=results,
        seconds=round(time.perf_counter() - began),
    )


if __name__ == "__main__":
    main()
