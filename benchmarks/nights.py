"""Promotions over many nights on the same test cases, and junk networks that become a first champion.

Cases and log odds are drawn as in `benchmarks.coverage`. Each night a network asks to become champion. Its errors on
the test cases correlate with those of the night before by `rho`; it is worse than the champion by `step` (log odds,
in spreads of patches of one class and case), or by as much ROC AUC as `loss` says. It is judged by the product's own
comparison, once as today (`now`: against champion and anchor, the looks spent) and once as promotion did before
(`before`: against the champion alone, at one-sided 2.5 % each time). A promotion is false where the network is truly
worse than the champion by more than `margin`, or than the first model by more than the total margin.

Junk networks go through the product's own calibration, threshold and floors on validation and test cases.

    python -m benchmarks.nights                   # 60 nights, each network .003 worse
    python -m benchmarks.nights --step 0          # equally good ones
    python -m benchmarks.nights --loss 0.02 --nights 365 --worlds 40   # a year, each worse by the whole margin
    python -m benchmarks.nights --junk            # first champions
    python -m benchmarks.nights --junk --one-class 0.76 --cases 11 --kind good   # of BreakHis' test split
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import click
import numpy as np
import pandas as pd

from benchmarks.coverage import IDC, Population, Sample, draw
from benchmarks.measuring import report
from benchmarks.paired_coverage import draw_errors, draw_pair
from histopipe.core.params import Params, parse_params
from histopipe.evaluation.delong import clustered_delong
from histopipe.evaluation.intervals import informative_cases
from histopipe.evaluation.metrics import Numbers, Predictions, compute_metrics
from histopipe.evaluation.predictions import choose_operating_point, predictions_table
from histopipe.promotion.gates import evaluate_gates, reasons
from histopipe.promotion.noninferiority import AucDifference, compare_roc_auc
from histopipe.promotion.spending import risk_of_look

FEWER_PATCHES = replace(IDC, patches=20)  # a case; the spread of cases is what counts
GAPS = np.linspace(-0.5, 3.5, 41)
JUNK = ("inverted", "chance", "constant", "everything positive", "good", "better")
BETTER = 3.4  # gap of a network with a ROC AUC of .984
MODES = ("before", "now")


@dataclass
class Year:
    """The result of a year, or of that many nights, in one world.

    Attributes:
        promoted: how many networks became champion.
        first, last: true ROC AUC of the first champion and of the last.
        test_first, test_last: the same on the test cases.
        false: whether a network was promoted that was worse by more than a margin.
    """

    promoted: int
    first: float
    last: float
    test_first: float
    test_last: float
    false: bool


@cache
def _areas(population: Population) -> Numbers:
    """Compute the true ROC AUC at each of `GAPS`, with errors drawn once."""
    sample = draw(population, 4000, np.random.default_rng(7))
    errors = sample.logits - population.gap * (sample.labels - 0.5)
    return np.array([compute_metrics(_at(sample, gap, errors).predict(0.5))["roc_auc"] for gap in GAPS])


def true_area(population: Population, gap: float) -> float:
    """Return the ROC AUC of a network whose classes are `gap` apart, on very many cases."""
    return float(np.interp(gap, GAPS, _areas(population)))


def gap_of(population: Population, area: float) -> float:
    """Return the gap at which a network has that true ROC AUC."""
    return float(np.interp(area, _areas(population), GAPS))


def _at(sample: Sample, gap: float, errors: Numbers) -> Sample:
    return Sample(sample.labels, gap * (sample.labels - 0.5) + errors, sample.cases, sample.case_count)


def settings(resamples: int = 300) -> Params:
    """Return parameters with the shipped limits of promotion."""
    recipe = {"optimizer": {"name": "adam", "learning_rate": 0.001}}
    return parse_params(
        {
            "datasets": ["idc"],
            "architectures": ["cancernet"],
            "idc": {},
            "recipes": {"cancernet": recipe},
            "evaluate": {"resamples": resamples},
        }
    )


@dataclass(frozen=True)
class Chain:
    """The networks that come, one a night.

    Attributes:
        cases: in test.
        nights: how many come.
        rho: correlation of their errors with the night before's.
        step: by how much each one's gap is less than the champion's.
        loss: by how much its true ROC AUC is less; in place of `step` where it isn't 0.
    """

    cases: int
    nights: int
    rho: float
    step: float
    loss: float = 0.0

    def next_gap(self, population: Population, champion: float) -> float:
        """Return the gap of the next network, given the champion's."""
        if self.loss:
            return gap_of(population, true_area(population, champion) - self.loss)
        return champion - self.step


def live(chain: Chain, mode: str, params: Params, seed: Sequence[int], population: Population = FEWER_PATCHES) -> Year:
    """Simulate one world: the same test cases every night."""
    random, limits = np.random.default_rng(list(seed)), params.promotion
    sample = draw(population, chain.cases, random)
    errors = sample.logits - population.gap * (sample.labels - 0.5)
    gap, champion = population.gap, sample.predict(0.5)
    anchor, promoted, false = champion, 0, False
    first = true_area(population, gap)
    for night in range(1, chain.nights + 1):
        errors = chain.rho * errors + np.sqrt(1 - chain.rho**2) * draw_errors(sample, population, random)
        offered = chain.next_gap(population, gap)
        tested = _at(sample, offered, errors).predict(0.5)
        risk = risk_of_look(night, limits.risk, limits.looks) if mode == "now" else limits.risk / 2
        if not _passes(tested, champion, risk, limits.margin):
            continue
        if mode == "now" and not _passes(tested, anchor, risk, limits.anchor_margin):
            continue
        area = true_area(population, offered)
        lost = true_area(population, gap) - area
        false |= lost > limits.margin - 1e-6 or first - area > limits.anchor_margin
        gap, champion, promoted = offered, tested, promoted + 1
        if false and chain.loss:
            break  # what becomes of it doesn't matter any more
    test_first, test_last = (compute_metrics(predictions)["roc_auc"] for predictions in (anchor, champion))
    return Year(promoted, first, true_area(population, gap), test_first, test_last, false)


def _passes(tested: Predictions, reference: Predictions, risk: float, margin: float) -> bool:
    low = quick_shortfall(tested, reference, risk).low
    return low is not None and low >= -margin


def quick_shortfall(tested: Predictions, reference: Predictions, risk: float) -> AucDifference:
    """Compare as the product does, but with a standard error in closed form, which takes a tenth of the time."""
    comparison = clustered_delong(tested, reference)
    if comparison is None:
        return AucDifference(None, np.inf, 0.0, tested.case_count, risk)
    freedom = informative_cases(tested)["roc_auc"] - 1
    return AucDifference(comparison.value, comparison.error, freedom, tested.case_count, risk)


def error_ratio(cases: int, pairs: int, params: Params, seed: int) -> float:
    """Compare the product's standard error with the one in closed form: their ratio, on average over pairs."""
    ratios = []
    for number in range(pairs):
        tested, reference = draw_pair(FEWER_PATCHES, cases, 0.0, np.random.default_rng([seed, 7, cases, number]))
        table = pd.DataFrame({"case_id": tested.cases, "label": tested.labels, "decision": 0})
        table["probability"] = tested.probabilities
        ours = compare_roc_auc(table, reference.probabilities, params, 0.025).error
        ratios.append(ours / quick_shortfall(tested, reference, 0.025).error)
    return round(float(np.mean(ratios)), 3)


def summarise(years: Sequence[Year]) -> dict[str, Any]:
    """Compute means over worlds with standard errors."""

    def mean(values: Sequence[float]) -> list[float]:
        return [round(float(np.mean(values)), 4), round(float(np.std(values, ddof=1) / np.sqrt(len(values))), 4)]

    return {
        "promoted": mean([year.promoted for year in years]),
        "first": mean([year.first for year in years]),
        "last": mean([year.last for year in years]),
        "lost": mean([year.first - year.last for year in years]),
        "worst": round(max(year.first - year.last for year in years), 4),
        "drift": mean([(year.test_last - year.test_first) - (year.last - year.first) for year in years]),
        "false": mean([float(year.false) for year in years]),
    }


def junk_network(kind: str, sample: Sample, random: np.random.Generator) -> Sample:
    """Draw the log odds of a network that learnt nothing or the wrong thing; `good` and `better` learnt it."""
    noise = random.normal(size=len(sample.labels))
    gap = {"inverted": -0.6, "good": IDC.gap, "better": BETTER, "everything positive": IDC.gap}.get(kind, 0.0)
    errors = draw_errors(sample, IDC, random) if kind != "constant" else 1e-9 * noise
    return _at(sample, gap, errors)


def first_champion(
    kind: str, validation: int, test: int, params: Params, seed: Sequence[int], population: Population = IDC
) -> bool:
    """Return true if such a network passes every floor, by the product's own calibration and threshold."""
    random = np.random.default_rng(list(seed))
    parts = []
    for split, cases in (("validation", validation), ("test", test)):
        sample = junk_network(kind, draw(population, cases, random), random)
        part = pd.DataFrame({"file": "", "case_id": [f"{split}{case}" for case in sample.cases], "split": split})
        parts.append(part.assign(label=sample.labels, logit=sample.logits))
    logits = pd.concat(parts, ignore_index=True)
    if logits.groupby("split")["label"].nunique().min() < 2:
        return False
    point = choose_operating_point(logits, params.evaluate.threshold)
    if kind == "everything positive":
        point |= {"threshold": 0.0}
    evaluated = predictions_table(logits, point)
    return not reasons(evaluate_gates(evaluated[evaluated["split"] == "test"].reset_index(drop=True), None, params))


def accepted(
    kind: str, validation: int, test: int, draws: int, seed: int, params: Params, population: Population = IDC
) -> float:
    """Compute the share of draws in which such a network becomes the first champion."""
    seeds = [(seed, 9, test, number) for number in range(draws)]
    return float(
        np.mean([first_champion(kind, validation, test, params, draw_seed, population) for draw_seed in seeds])
    )


@click.command()
@click.option("--cases", multiple=True, type=int, default=(42, 100), show_default=True)
@click.option("--rho", multiple=True, type=float, default=(0.9, 0.98), show_default=True)
@click.option("--nights", default=60, show_default=True)
@click.option("--worlds", default=40, show_default=True)
@click.option("--step", default=0.03, show_default=True, help="Gap that each network lacks; .03 are some .003 of AUC.")
@click.option("--loss", default=0.0, show_default=True, help="ROC AUC that each network lacks, in place of --step.")
@click.option("--mode", multiple=True, type=click.Choice(MODES), default=MODES, show_default=True)
@click.option("--junk", is_flag=True, help="First champions instead of nights.")
@click.option("--draws", default=200, show_default=True, help="Of junk networks.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(JUNK), default=JUNK, show_default=True)
@click.option("--one-class", type=float, help="Share of positive cases, where every case has one class (--junk only).")
@click.option("--seed", default=42, show_default=True)
def main(
    cases: tuple[int, ...],
    rho: tuple[float, ...],
    nights: int,
    worlds: int,
    step: float,
    loss: float,
    mode: tuple[str, ...],
    junk: bool,
    draws: int,
    kinds: tuple[str, ...],
    one_class: float | None,
    seed: int,
) -> None:
    """Measure; the last line is JSON."""
    began = time.perf_counter()
    params = settings()
    rows: dict[str, Any] = {}
    if junk:
        for count in cases:
            population = replace(IDC, one_class=one_class)
            rows[f"{count} cases"] = {
                kind: accepted(kind, count, count, draws, seed, params, population) for kind in kinds
            }
            print(count, rows[f"{count} cases"], file=sys.stderr, flush=True)
    else:
        for count, alike, how in ((c, r, m) for c in cases for r in rho for m in mode):
            chain = Chain(count, nights, alike, step, loss)
            years = [live(chain, how, params, (seed, 8, count, number)) for number in range(worlds)]
            rows[f"{count} cases, rho {alike}, {how}"] = summarise(years)
            print(f"{count} cases, rho {alike}, {how}", summarise(years), file=sys.stderr, flush=True)
    report(
        "nights",
        "a rate, not a cost",
        rows=rows,
        error_ratio={} if junk else {str(count): error_ratio(count, 20, params, seed) for count in cases},
        nights=nights,
        worlds=worlds,
        step=step,
        loss=loss,
        draws=draws if junk else 0,
        one_class=one_class,
        seconds=round(time.perf_counter() - began),
    )


if __name__ == "__main__":
    main()
