"""Intervals from resampling whole cases."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.coverage import IDC, coverage, draw
from benchmarks.intervals import PUBLISHED_CASES, PUBLISHED_PATCHES, full_size, seconds
from benchmarks.regimes import REGIMES, Regime, simulate
from histopipe.evaluation.cautions import cautions
from histopipe.evaluation.intervals import (
    SHARES,
    effective_cases_from_spread,
    estimate,
    estimate_absolute_sum,
    estimate_metrics,
    informative_cases,
    interval,
    resample_cases,
)
from histopipe.evaluation.metrics import METRICS, Predictions, compute_metrics
from tests.builders.predictions import slides


def test_the_same_seed_draws_the_same_cases_for_ever() -> None:
    drawn = resample_cases(cases=5, resamples=3, seed=42)
    assert drawn.tolist() == [[2, 0, 3, 0, 0], [0, 2, 2, 0, 1], [0, 1, 1, 2, 1]]
    assert not np.array_equal(drawn, resample_cases(5, 3, seed=43))


def test_every_resample_draws_as_many_cases_as_there_are() -> None:
    drawn = resample_cases(cases=49, resamples=2000, seed=1)
    assert (drawn.sum(axis=1) == 49).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(49), abs=0.15)  # each case once on average


def test_an_interval_holds_its_value_and_lies_between_0_and_1() -> None:
    for name, found in estimate_metrics(slides(cases=20, seed=3), resamples=200, seed=42).items():
        assert 0 <= found["low"] < found["value"] < found["high"] <= 1, name


def test_more_cases_give_narrower_intervals() -> None:
    few, many = (estimate_metrics(slides(cases, seed=4), 300, 42) for cases in (20, 200))
    for name in METRICS:
        assert width(many[name]) < 0.7 * width(few[name]), name


@pytest.mark.long
def test_intervals_of_the_whole_archive_take_half_a_minute_of_one_core() -> None:
    predictions = full_size()
    assert (len(predictions.labels), len(np.unique(predictions.cases))) == (PUBLISHED_PATCHES, PUBLISHED_CASES)
    found: dict[str, dict[str, float]] = {}
    assert seconds(lambda: found.update(estimate_metrics(predictions, 2000, 42))) <= 30
    assert list(found) == list(METRICS)


def width(found: dict[str, float]) -> float:
    return found["high"] - found["low"]


def test_more_patches_of_the_same_cases_do_not_feign_certainty() -> None:
    once = slides(cases=20, seed=4)
    again = Predictions(*(np.tile(values, 10) for values in list(vars(once).values())[:4]), case_count=20)
    for name in METRICS:
        assert width(estimate_metrics(again, 200, 42)[name]) == pytest.approx(
            width(estimate_metrics(once, 200, 42)[name]), rel=0.02
        ), name


def test_simulated_cases_look_like_the_real_ones() -> None:
    sample = draw(IDC, 20_000, np.random.default_rng(1))
    sizes = np.bincount(sample.cases)
    assert sizes.mean() == pytest.approx(40.8, rel=0.03)
    assert np.quantile(sizes, [0.25, 0.5, 0.95]) == pytest.approx([21, 34, 94], rel=0.1)  # of the sample's 230 cases
    assert sample.labels.mean() == pytest.approx(2574 / 9387, abs=0.025)
    assert compute_metrics(sample.predict(0.5))["roc_auc"] == pytest.approx(
        0.92, abs=0.01
    )  # of a trained network, see docs


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    ours, plain = coverage(IDC, cases=49, data_sets=200, resamples=300, seed=1, truth_cases=5000)[:2]
    held = dict(zip(METRICS, np.round(ours, 3).tolist(), strict=True))
    least = 0.92 - 2.5 * np.sqrt(0.92 * 0.08 / 200)  # .872: 2,000 data sets and more of the kind are in the docs
    assert all(share >= least for share in held.values()), held
    assert np.mean(1 - ours) < np.mean(1 - plain), "plain percentiles miss more often"


def test_one_case_says_nothing_of_the_spread() -> None:
    found = estimate_metrics(Predictions.from_arrays([1, 0, 1], [0.9, 0.8, 0.3], [1, 1, 0], ["A"] * 3), 100, 42)
    assert found["sensitivity"] == {"value": 0.5, "low": 0.0, "high": 1.0}


def test_a_class_in_one_case_only_says_nothing_of_what_compares_the_classes() -> None:
    predictions = Predictions.from_arrays([1, 1, 0, 0], [0.9, 0.2, 0.4, 0.1], [1, 0, 0, 0], ["A", "A", "B", "C"])
    assert informative_cases(predictions)["roc_auc"] == 1
    found = estimate_metrics(predictions, 200, 42)
    assert (found["roc_auc"]["low"], found["roc_auc"]["high"]) == (0.0, 1.0)


def test_a_perfect_model_is_as_certain_as_its_cases_allow() -> None:
    labels = np.tile([0, 1], 20)
    cases = np.repeat(np.arange(10), 4)
    found = estimate_metrics(Predictions.from_arrays(labels, labels * 0.8 + 0.1, labels, cases), 100, 42)
    assert found["roc_auc"] == {
        "value": 1.0,
        "low": pytest.approx(0.025**0.1),
        "high": 1.0,
    }  # .69 for ten cases
    low, high = interval(0.0, np.zeros(5), cases=10, half_step=1 / 80)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025**0.1))


def ranked(wrong_pairs: int) -> Predictions:
    """20 cases of 15 positive and 35 negative patches, of which so many pairs stand in the wrong order."""
    labels = np.tile(np.repeat([1, 0], [15, 35]), 20)
    ranks = np.argsort(np.argsort(-labels, kind="stable"))
    scores = 1 - ranks / len(labels)
    worst, best = np.flatnonzero(labels == 1)[-1], np.flatnonzero(labels == 0)[:wrong_pairs]
    scores[worst] = scores[best[-1]] - 1e-9 if wrong_pairs else scores[worst]
    return Predictions(labels, scores, (scores > 0.7).astype(int), np.repeat(np.arange(20), 50), 20)


@pytest.mark.parametrize("wrong_pairs", [1, 5, 20])
@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_a_wrong_pair_among_very_many_leaves_doubt(metric: str, wrong_pairs: int) -> None:
    found = estimate_metrics(ranked(wrong_pairs), 300, 42)[metric]
    assert found["low"] < found["value"] < found["high"] <= 1
    assert 1 - found["low"] > 5 * (1 - found["value"])  # it all stands in one or two of 20 cases
    right = estimate_metrics(ranked(0), 300, 42)[metric]
    assert found["low"] > right["low"]  # of which it is surer than of none at all


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["AUC .996, 24 cases of 21 patches", "AUC .9995, 25 cases"])
def test_intervals_hold_an_auc_near_1(regime: str) -> None:
    population, cases = REGIMES[regime]
    shares = coverage(population, cases, data_sets=120, resamples=200, seed=1, truth_cases=20_000)[0]
    held = dict(zip(METRICS, shares.tolist(), strict=True))
    least = 0.95 - 3 * np.sqrt(0.95 * 0.05 / 120)
    assert min(held["roc_auc"], held["average_precision"]) >= least, held


@pytest.mark.slow
def test_where_large_cases_are_harder_the_intervals_say_that_they_may_be_too_narrow() -> None:
    regime = simulate("large cases harder, heavy tails, 100 cases", data_sets=40, resamples=50, seed=1)
    assert regime.cautioned.mean() > 0.9
    assert simulate("200 cases", data_sets=40, resamples=50, seed=1).cautioned.mean() < 0.2


def test_too_few_cases_of_the_rarer_class_and_uneven_cases_are_said() -> None:
    random = np.random.default_rng(1)
    cases = np.repeat(np.arange(30), 20)
    labels = random.random(600) < 0.4
    even = Predictions.from_arrays(labels, random.random(600), labels, cases)
    assert cautions(even) == []
    rare = Predictions.from_arrays(labels & (cases < 3), random.random(600), labels, cases)
    (few,) = cautions(rare)
    assert "few cases hold positive patches" in few
    sizes = np.repeat(np.arange(30), [2000, *[20] * 29])
    few, uneven = cautions(Predictions.from_arrays(np.arange(2580) % 2, random.random(2580), np.ones(2580), sizes))
    assert "few cases" in few and "outweigh" in uneven
    (none,) = cautions(Predictions.from_arrays(np.zeros(600), random.random(600), labels, cases))
    assert "positive patches (none" in none


@pytest.mark.long
def test_intervals_hold_the_truth_or_say_that_they_may_not() -> None:
    for name in REGIMES:
        regime = simulate(name, data_sets=150, resamples=300, seed=2)
        quiet = ~regime.cautioned
        held = regime.held[quiet] if quiet.sum() >= 75 else regime.held
        least = 0.93 - 3 * np.sqrt(0.93 * 0.07 / len(held))
        shares = dict(zip(METRICS, np.nanmean(held, axis=0).tolist(), strict=True))
        assert quiet.sum() < 75 or min(shares.values()) >= least, (name, shares)
        assert_hardly_wider(name, regime)


def assert_hardly_wider(name: str, regime: Regime) -> None:
    """Shares away from 0 and 1 are hardly wider than by the former rule, where that held the truth."""
    former = np.nanmean(regime.held_formerly, axis=0)
    wider = np.nanmean(regime.widths, axis=0) / np.nanmean(regime.widths_formerly, axis=0)
    for place, metric in enumerate(METRICS):
        if metric in SHARES and 0.1 < regime.truth[metric] < 0.9 and former[place] >= 0.93:
            assert wider[place] <= 1.2, (name, metric, wider[place])


def test_a_spread_that_sits_in_one_case_counts_for_few() -> None:
    even, lonely = np.arange(50) / 50, np.eye(1, 50)[0]
    assert effective_cases_from_spread(even, informative=40.0) == 40.0
    assert effective_cases_from_spread(lonely, informative=40.0) == 4.0
    assert effective_cases_from_spread(lonely, informative=3.0) == 3.0
    assert (
        effective_cases_from_spread(np.ones(50), informative=40.0) == 40.0
    )  # no spread at all, of which nothing can be said


def test_cases_that_agree_exactly_do_not_feign_certainty() -> None:
    """Two slides of equal patches, or forty: the spread over resamples is none, and the interval had no width."""
    widths = []
    for cases in (2, 8, 40):
        labels, probabilities = np.tile([0, 0, 1, 1], cases), np.tile([0.2, 0.6, 0.4, 0.7], cases)
        case = np.repeat(np.arange(cases), 4)
        found = estimate_metrics(
            Predictions(labels, probabilities, (probabilities > 0.5).astype(int), case, cases), 200, 42
        )
        assert found["roc_auc"]["value"] == 0.75
        widths.append(width(found["roc_auc"]))
        assert width(found["sensitivity"]) > 0
    assert widths[0] > 0.8 > widths[1] > widths[2] > 0.05


def test_an_undefined_metric_has_no_value_and_no_interval() -> None:
    found = estimate_metrics(
        Predictions.from_arrays([1, 0, 1, 0], [0.4, 0.3, 0.2, 0.1], [0] * 4, ["A", "A", "B", "B"]), 100, 42
    )
    assert found["precision"] == {"value": None, "low": None, "high": None}
    assert found["sensitivity"]["value"] == 0.0


def test_resamples_without_one_class_are_left_out() -> None:
    resampled = np.array([0.7, np.nan, 0.75, 0.8, np.nan, 0.72])
    defined = resampled[~np.isnan(resampled)]
    assert estimate(0.75, resampled, 6, 0.01) == estimate(0.75, defined, 6, 0.01)


def test_too_few_usable_resamples_say_nothing() -> None:
    found = estimate(0.75, np.array([np.nan, 0.7, np.nan]), cases=4, half_step=0.01)
    assert found == {"value": 0.75, "low": 0.0, "high": 1.0}


def test_the_lower_end_of_an_absolute_sum_is_what_chance_would_raise_to_it_one_time_in_25() -> None:
    """One term and the normal law, where both ends are known: 1.75 errors below, 1.96 above."""
    noise = np.random.default_rng(1).normal(0, 0.01, (200_000, 1))
    found = estimate_absolute_sum(np.array([-0.2]), -0.2 + noise, cases=1e6)
    assert found["value"] == pytest.approx(0.2)
    assert found["low"] == pytest.approx(0.2 - 1.7507 * 0.01, abs=2e-4)
    assert found["high"] == pytest.approx(0.2 + 1.96 * 0.01, abs=2e-4)


def test_an_absolute_sum_that_chance_alone_explains_may_be_none() -> None:
    random = np.random.default_rng(2)
    noise = random.normal(0, 0.01, (2000, 15))
    assert estimate_absolute_sum(random.normal(0, 0.01, 15), noise, cases=1e6)["low"] == 0.0
    doubled = estimate_absolute_sum(np.full(15, 0.03), 0.03 + noise, cases=1e6)
    assert 0.3 < doubled["low"] < doubled["value"] == pytest.approx(0.45)


def test_the_upper_end_of_an_absolute_sum_knows_what_its_terms_have_in_common() -> None:
    shared = np.random.default_rng(3).normal(0, 0.01, (2000, 1)) * np.ones(4)
    terms = np.array([0.05, -0.05, 0.05, -0.05])  # what one gains the next one loses: the absolute sum hardly varies
    found = estimate_absolute_sum(terms, terms + shared, cases=1e6)
    assert found["high"] == pytest.approx(0.2 + 1.96 * 0.04, rel=0.05)
