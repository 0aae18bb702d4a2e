"""Coverage of intervals in difficult regimes: few cases, AUC near 1, rare classes, uneven cases.

Each regime is a population of `benchmarks.coverage` and a number of cases. The product's intervals are compared with
those of the same resamples by the former rule: resamples of 0 or 1 taken for half a patch whatever the metric, and as
many degrees of freedom as cases of equal size, however few of them make up the spread.

    python -m benchmarks.regimes
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from benchmarks.coverage import IDC, NOMINAL, TRUTH_CASES, Ends, Population, draw, operating_point
from benchmarks.measuring import report
from histopipe.evaluation.cautions import cautions
from histopipe.evaluation.intervals import estimate_metrics, informative_cases, resample_fewer_cases
from histopipe.evaluation.metrics import METRICS, Numbers, Predictions, compute_metrics, compute_metrics_of_resamples

TRUTH_PATCHES = 4_000_000
FORMERLY = [name for name in METRICS if name != "calibration_error"]  # whose interval was another one already

REGIMES: dict[str, tuple[Population, int]] = {  # where users live: a population and a number of cases
    "8 cases": (IDC, 8),
    "25 cases": (IDC, 25),
    "200 cases": (IDC, 200),
    "AUC .61, 8 cases": (replace(IDC, gap=0.45), 8),
    "AUC .61, 25 cases": (replace(IDC, gap=0.45), 25),
    "AUC .996, 24 cases of 21 patches": (replace(IDC, patches=21, size_shape=3, gap=4.2), 24),
    "AUC .992, 8 cases": (replace(IDC, gap=3.8), 8),
    "AUC .9995, 25 cases": (replace(IDC, gap=5.2), 25),
    "AUC .99998, 25 cases of 400 patches": (replace(IDC, patches=400, gap=6.6), 25),
    "AUC .99998, 100 cases": (replace(IDC, gap=6.6), 100),
    "AUC .99999, 8 cases of 100 patches": (replace(IDC, patches=100, gap=7.0), 8),
    "2 % positive, 30 cases": (replace(IDC, patches=60, positives=(0.1, 4.9)), 30),
    "98 % positive, 30 cases": (replace(IDC, patches=60, positives=(4.9, 0.1)), 30),
    "2 % positive, 100 cases": (replace(IDC, patches=60, positives=(0.1, 4.9)), 100),
    "98 % positive, 200 cases": (replace(IDC, patches=60, positives=(4.9, 0.1)), 200),
    "12 cases of one class": (replace(IDC, one_class=0.5), 12),
    "24 cases of one class": (replace(IDC, one_class=0.5), 24),
    "50 cases of one class, 90 % positive": (replace(IDC, one_class=0.9), 50),
    "heavy tails, 12 cases": (replace(IDC, tails=3), 12),
    "heavy tails, 50 cases": (replace(IDC, tails=3), 50),
    "large cases harder, heavy tails, 25 cases": (replace(IDC, tails=3, size_spread=1.0, hardness=0.63), 25),
    "large cases harder, heavy tails, 100 cases": (replace(IDC, tails=3, size_spread=1.0, hardness=0.63, gap=2.6), 100),
}


class Regime(NamedTuple):
    """The results of a regime's data sets.

    Attributes:
        held: whether the product's interval holds the truth, (data sets, metrics); NaN without a value.
        held_formerly: the same of the former rule.
        widths: of the product's intervals, (data sets, metrics).
        widths_formerly: of the former rule's.
        cautioned: whether the product says that they may be too narrow, (data sets,).
        truth: of each metric.
    """

    held: Numbers
    held_formerly: Numbers
    widths: Numbers
    widths_formerly: Numbers
    cautioned: NDArray[np.bool_]
    truth: dict[str, float]


def former_interval(value: float, resampled: Numbers, cases: float, patches: int) -> Ends:
    """Return the interval of the former rule; arguments as those of `histopipe.evaluation.intervals.interval`."""
    if cases < 2 or len(resampled) < 2:
        return 0.0, 1.0
    if value in (0.0, 1.0):
        bound = float(((1 - NOMINAL) / 2) ** (1 / cases))
        return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
    inside = np.clip(resampled, 0.5 / patches, 1 - 0.5 / patches)
    reach = stats.t.ppf((1 + NOMINAL) / 2, cases - 1) * np.std(special.logit(inside), ddof=1)
    return float(special.expit(special.logit(value) - reach)), float(special.expit(special.logit(value) + reach))


def simulate(name: str, data_sets: int, resamples: int, seed: int) -> Regime:
    """Draw a regime's data sets and compute their intervals; the same seed gives the same."""
    population, cases = REGIMES[name]
    threshold, calibration = operating_point(population, np.random.default_rng([seed, 1]))
    many = draw(population, _truth_cases(population), np.random.default_rng([seed, 2]))
    truth = compute_metrics(many.predict(threshold, calibration))
    ends, cautioned = [], []
    for number in range(data_sets):
        sample = draw(population, cases, np.random.default_rng([seed, 3, cases, number]))
        predictions = sample.predict(threshold, calibration)
        ends.append(_both_ends(predictions, resamples, number))
        cautioned.append(bool(cautions(predictions)))
    low, high = np.moveaxis(np.array(ends), -1, 0)  # (data sets, rules, metrics)
    true = np.array([truth[metric] for metric in METRICS])
    held = np.where(np.isnan(low), np.nan, (low <= true) & (true <= high))
    widths = high - low
    return Regime(held[:, 0], held[:, 1], widths[:, 0], widths[:, 1], np.array(cautioned, dtype=bool), truth)


def _both_ends(predictions: Predictions, resamples: int, seed: int) -> list[list[Ends]]:
    """Compute the ends of the product's interval and of the former rule's, (rules, metrics, 2); NaN if undefined."""
    ours = estimate_metrics(predictions, resamples, seed)
    spread = compute_metrics_of_resamples(predictions, resample_fewer_cases(predictions.case_count, resamples, seed))
    cases = informative_cases(predictions)
    nothing = (np.nan, np.nan)
    return [
        [
            nothing if (interval := ours[name])["low"] is None else (interval["low"], interval["high"] or 0.0)
            for name in METRICS
        ],
        [
            nothing
            if name not in FORMERLY or (value := ours[name]["value"]) is None
            else former_interval(value, spread[name][~np.isnan(spread[name])], cases[name], len(predictions.labels))
            for name in METRICS
        ],
    ]


def summary(regime: Regime) -> dict[str, object]:
    """Summarise a regime by metric: coverage now, formerly and without a caution, and the ratio of widths."""
    quiet = ~regime.cautioned
    with np.errstate(invalid="ignore"):
        width = np.nanmean(regime.widths, axis=0) / np.nanmean(regime.widths_formerly, axis=0)
    return {
        "roc_auc": round(regime.truth["roc_auc"], 6),
        "cautioned": round(float(regime.cautioned.mean()), 3),
        "coverage": _by_metric(np.nanmean(regime.held, axis=0)),
        "coverage_formerly": _by_metric(np.nanmean(regime.held_formerly, axis=0)),
        "coverage_without_caution": _by_metric(np.nanmean(regime.held[quiet], axis=0)) if quiet.any() else None,
        "width_ratio": _by_metric(width),
    }


def _by_metric(values: Numbers) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else round(float(value), 3) for name, value in zip(METRICS, values, strict=True)
    }


@click.command()
@click.option("--regime", "names", multiple=True, type=click.Choice(list(REGIMES)), help="All, unless some are named.")
@click.option("--data-sets", default=400, show_default=True, help="Simulated data sets of each regime.")
@click.option("--resamples", default=500, show_default=True, help="Resamples behind each interval.")
@click.option("--seed", default=42, show_default=True)
def main(names: tuple[str, ...], data_sets: int, resamples: int, seed: int) -> None:
    """Measure the coverage; the last line is JSON and holds `ratio`: the former rule's misses over ours."""
    began = time.perf_counter()
    results = {}
    for name in names or REGIMES:
        results[name] = simulate(name, data_sets, resamples, seed)
        print(f"{name}: {summary(results[name])}", file=sys.stderr, flush=True)
    ours, former = (
        np.mean([1 - np.nanmean(getattr(regime, held)[:, :-1]) for regime in results.values()])
        for held in ("held", "held_formerly")
    )
    report(
        "regimes",
        ratio=round(float(former / max(ours, 1 / data_sets)), 2),
        data_sets=data_sets,
        resamples=resamples,
        error=round(float(np.sqrt(NOMINAL * (1 - NOMINAL) / data_sets)), 4),
        regimes={name: summary(regime) for name, regime in results.items()},
        seconds=round(time.perf_counter() - began),
    )


def _truth_cases(population: Population) -> int:
    """Return the number of cases that the truth is measured on; fewer of large ones, to save memory."""
    return min(TRUTH_CASES, int(TRUTH_PATCHES / population.patches))


if __name__ == "__main__":
    main()
