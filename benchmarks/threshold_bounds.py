"""Rates at which new cases reach the sensitivity that a threshold was chosen for.

Validation cases are drawn from populations of `benchmarks.coverage`, the threshold is chosen on them by
`sensitivity>=0.95` and by `sensitivity>=0.95@0.9`, and held against the sensitivity and the specificity of very many
other cases. Where the cases are too few for a bound, it is refused.

    python -m benchmarks.threshold_bounds
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import click
import numpy as np
from scipy.special import expit

from benchmarks.coverage import IDC, Population, draw
from benchmarks.measuring import report
from histopipe.core.errors import EvaluationError
from histopipe.core.params import EvaluateParams
from histopipe.evaluation.metrics import Numbers
from histopipe.evaluation.thresholds import choose_threshold

TRUTH_CASES = 20_000
RULES = ("sensitivity>=0.95", "sensitivity>=0.95@0.9")

POPULATIONS: dict[str, Population] = {
    "both classes in a case": IDC,
    "cases of one class": replace(IDC, one_class=0.5),
    "heavy tails": replace(IDC, size_spread=1.0, tails=3),
}


def chosen(population: Population, cases: int, written: str, random: np.random.Generator) -> float:
    """Choose a threshold by a rule on newly drawn cases; NaN where it refuses."""
    sample = draw(population, cases, random)
    while sample.labels.min() == sample.labels.max():
        sample = draw(population, cases, random)
    rule = EvaluateParams.model_validate({"threshold": written}).threshold
    try:
        return choose_threshold(rule, sample.labels, expit(sample.logits), sample.cases)
    except EvaluationError:
        return np.nan


def reached(population: Population, cases: int, written: str, data_sets: int, seed: int) -> dict[str, float]:
    """Compute how often new cases reach the sensitivity, their mean specificity, and how often the rule refuses."""
    many = draw(population, TRUTH_CASES, np.random.default_rng([seed, 5]))
    positives, negatives = (np.sort(expit(many.logits[many.labels == label])) for label in (1, 0))
    thresholds: Numbers = np.array(
        [chosen(population, cases, written, np.random.default_rng([seed, 6, cases, n])) for n in range(data_sets)]
    )
    accepted = thresholds[~np.isnan(thresholds)]
    sensitivity = 1 - np.searchsorted(positives, accepted) / len(positives)
    specificity = np.searchsorted(negatives, accepted) / len(negatives)
    shares = {"reached": (sensitivity >= 0.95).mean(), "tenth_percentile": np.quantile(sensitivity, 0.1)}
    shares |= {"specificity": specificity.mean(), "refused": np.isnan(thresholds).mean()}
    answer = {name: round(float(value), 4) for name, value in shares.items()} if len(accepted) else {"refused": 1.0}
    print(f"{cases} cases, {written}: {answer}", file=sys.stderr, flush=True)
    return answer


@click.command()
@click.option("--cases", multiple=True, type=int, default=(9, 15, 24, 42), show_default=True)
@click.option("--data-sets", default=1000, show_default=True)
@click.option("--seed", default=42, show_default=True)
def main(cases: tuple[int, ...], data_sets: int, seed: int) -> None:
    """Choose thresholds; the last line is JSON."""
    began = time.perf_counter()
    results = {
        f"{name}, {count} cases": {rule: reached(population, count, rule, data_sets, seed) for rule in RULES}
        for name, population in POPULATIONS.items()
        for count in cases
    }
    report(
        "threshold_bounds",
        "no rival: shares of data sets",
        data_sets=data_sets,
        error=round(float(np.sqrt(0.25 / data_sets)), 4),
        reached=results,
        seconds=round(time.perf_counter() - began),
    )


if __name__ == "__main__":
    main()
