"""Differences between models graded on the same cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from benchmarks.paired_coverage import coverage
from benchmarks.paired_tests import REGIMES, pairs
from histopipe.evaluation import differences
from histopipe.evaluation.case_parts import CaseMetrics, CaseParts, area_difference
from histopipe.evaluation.delong import clustered_delong
from histopipe.evaluation.differences import Flips, difference, holm, rank_ranges
from histopipe.evaluation.intervals import Estimate, resample_cases
from histopipe.evaluation.metrics import Numbers, Predictions, compute_metrics, compute_metrics_of_resamples


def two_models(
    cases: int, patches: int, seed: int, gain: float = 0.0, shared: float = 0.7
) -> tuple[Predictions, Predictions]:
    """Models of the same patches that err alike on hard cases; the first tells the classes apart better by `gain`."""
    random = np.random.default_rng(seed)
    case = np.repeat(np.arange(cases), patches)
    labels = (random.random(cases * patches) < random.beta(1, 2, cases)[case]).astype(int)
    hard = shared * random.normal(size=cases)[case]
    found = []
    for strength in (1.0 + gain, 1.0):
        own = 0.4 * random.normal(size=cases)[case] + random.normal(size=len(case))
        probabilities = expit(strength * (2 * labels - 1) + hard + own)
        found.append(Predictions(labels, probabilities, (probabilities > 0.5).astype(int), case, cases))
    return found[0], found[1]


def area(first: Predictions, second: Predictions) -> Estimate:
    return difference(area_difference(first, second), seed=3)


def test_parts_are_what_exchanging_ranks_in_whole_cases_does() -> None:
    first, second = two_models(6, 15, 1, gain=0.3)
    parts = area_difference(first, second).parts
    ranks = [stats.rankdata(model.probabilities) for model in (first, second)]
    for exchanged in itertools.product([False, True], repeat=6):
        here = np.array(exchanged)[first.cases]
        areas = [roc_auc_score(first.labels, np.where(here, *pair)) for pair in (ranks[::-1], ranks)]
        assert areas[0] - areas[1] == pytest.approx(np.where(exchanged, -1, 1) @ parts)


def test_parts_add_up_and_shares_are_counted() -> None:
    first, second = two_models(7, 20, 2, gain=0.5)
    one, other = compute_metrics(first), compute_metrics(second)
    for name, found in CaseMetrics(first).minus(CaseMetrics(second)).items():
        assert found.value == pytest.approx(one[name] - other[name])
        assert found.parts.sum() == pytest.approx(found.value)
        assert found.weights.sum() == pytest.approx(1)
    apart = CaseMetrics(first).minus(CaseMetrics(second))["accuracy"].parts
    right = [model.per_case(model.decisions == model.labels) for model in (first, second)]
    np.testing.assert_allclose(apart, (right[0] - right[1]) / len(first.labels), atol=1e-12)


@pytest.mark.parametrize("cases", [8, 30])
def test_the_interval_leaves_out_0_exactly_where_p_is_below_05(cases: int) -> None:
    outcomes = set()
    for seed in range(12):
        first, second = two_models(cases, 20, seed, gain=0.25)
        for found in Flips(list(CaseMetrics(first).minus(CaseMetrics(second)).values()), 1).estimates():
            outcomes.add(found["p"] < 0.05)
            assert (found["low"] > 0 or found["high"] < 0) == (found["p"] < 0.05)
            assert found["low"] <= found["value"] <= found["high"]
    assert outcomes == {True, False}


def test_a_test_of_few_cases_by_hand() -> None:
    # Of the 32 ways to set the signs of six parts (the first +) only + + + + + + and + - + + + + (the sum without it is
    # 2 x .001 less) reach as far: p is 2/32. Random parts of the cases have differences from 6 x .001 to 6 x .1.
    found = CaseParts(0.251, np.array([0.1, 0.0005, 0.05, 0.05, 0.03, 0.0205]), np.full(6, 1 / 6), np.zeros(6), 5.0)
    assert difference(found, 1)["p"] == 1 / 32
    equal = CaseParts(0.0, np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1]), np.full(6, 1 / 6), np.zeros(6), 5.0)
    assert difference(equal, 1) == {"value": 0.0, "low": pytest.approx(-0.6), "high": pytest.approx(0.6), "p": 1.0}


def test_random_turns_tell_what_all_turns_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    found = area_difference(*two_models(12, 20, 5, gain=0.4))
    exact = difference(found, 1)
    monkeypatch.setattr(differences, "LISTED_CASES", 2)
    drawn = difference(found, 1)
    assert drawn != exact
    assert drawn == {name: pytest.approx(value, abs=0.01) for name, value in exact.items()}


def test_what_leaving_out_cases_moves_is_the_jackknifes() -> None:
    first, second = two_models(9, 20, 3, gain=0.3)
    found = CaseMetrics(first).minus(CaseMetrics(second))
    draws = 1 - np.eye(9)
    left_out = [compute_metrics_of_resamples(model, draws) for model in (first, second)]
    for name in ("roc_auc", "average_precision", "balanced_accuracy", "brier"):
        apart = left_out[0][name] - left_out[1][name]
        error = np.sqrt(8 / 9 * ((apart - apart.mean()) ** 2).sum())
        assert np.sqrt((found[name].shifts ** 2).sum()) == pytest.approx(error)


def test_another_level_has_another_interval() -> None:
    found = area_difference(*two_models(20, 20, 5, gain=0.4))
    ends = [(answer["low"], answer["high"]) for answer in (difference(found, 1, level) for level in (0.8, 0.95, 0.999))]
    assert ends[2][0] < ends[1][0] < ends[0][0] < found.value < ends[0][1] < ends[1][1] < ends[2][1]


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["8 cases", "12 one-class cases", "8 cases, AUC .99"])
def test_equal_models_of_few_cases_are_told_apart_one_time_in_twenty(regime: str) -> None:
    population, cases = REGIMES[regime]
    found = [area_difference(*pair) for pair in pairs(population, cases, 0.0, 800, seed=7)]
    rejected = np.mean([answer["p"] < 0.05 for answer in Flips(found, 1).estimates()])
    assert 0.02 < rejected < 0.08  # .03 to .07, less and more two standard errors of .0055


def test_a_better_model_is_found_with_ten_cases() -> None:
    population, cases = REGIMES["10 cases"]
    found = [area_difference(second, first) for first, second in pairs(population, cases, 0.4, 200, seed=7)]
    assert np.mean([answer["p"] < 0.05 for answer in Flips(found, 1).estimates()]) > 0.25  # t of Kish's cases: .07


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_intervals_of_differences_hold_the_truth_about_as_often_as_they_say(gain: float) -> None:
    (shares, _), _ = coverage(cases=30, data_sets=100, resamples=100, seed=1, gain=gain)
    assert (shares >= 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / 100)).all(), shares  # .874; 2,000 data sets are in the docs


@pytest.mark.long
@pytest.mark.parametrize("regime", [name for name, (_, cases) in REGIMES.items() if cases <= 42])
def test_the_level_of_the_test_is_as_docs_say(regime: str) -> None:
    population, cases = REGIMES[regime]
    found = [area_difference(*pair) for pair in pairs(population, cases, 0.0, 4000, seed=42)]
    assert 0.03 <= np.mean([answer["p"] < 0.05 for answer in Flips(found, 1).estimates()]) <= 0.07


def test_a_model_compared_with_itself_does_not_differ() -> None:
    first, _ = two_models(20, 10, 1)
    found = area(first, first)
    assert (found["value"], found["p"]) == (0.0, 1.0)
    assert found["low"] < 0 < found["high"]


@pytest.mark.parametrize("cases", [1, 2, 5])
def test_few_cases_tell_nothing(cases: int) -> None:
    found = area(*two_models(cases, 40, 3, gain=2.0))
    assert (found["low"], found["high"]) == (-1.0, 1.0)
    assert found["p"] > 0.05


def test_a_class_in_one_case_tells_nothing() -> None:
    cases, labels = np.repeat(range(10), 5), np.repeat([1] + [0] * 9, 5)
    models = [Predictions(labels, values, labels, cases, 10) for values in np.random.default_rng(1).random((2, 50))]
    assert area(*models) | {"value": 0} == {"value": 0, "low": -1.0, "high": 1.0, "p": 1.0}


def test_an_undefined_difference_has_no_interval() -> None:
    one = Predictions.from_arrays([1, 1, 1], [0.9, 0.2, 0.4], [1, 0, 0], ["A", "B", "C"])
    assert set(area(one, one).values()) == {None}


@pytest.mark.parametrize("value", [0.05, 0.3, 0.36, 0.6, 1.0])
def test_without_spread_interval_and_p_value_still_agree(value: float) -> None:
    found = difference(CaseParts(value, np.full(9, value / 9), np.full(9, 1 / 9), np.zeros(9), 8.0), 1)
    assert (found["low"] > 0) == (found["p"] < 0.05)


def test_corrected_p_values_hold_for_all_together() -> None:
    """The same difference four times is one difference; Holm's correction would take it for four."""
    found = area_difference(*two_models(20, 20, 5, gain=0.4))
    turned = Flips([found] * 4, 1)
    assert turned.corrected_p_values() == pytest.approx([turned.estimates()[0]["p"]] * 4)
    nothing = CaseParts(float("nan"), np.full(20, np.nan), np.full(20, 0.05), np.full(20, np.nan), 0.0)
    assert Flips([found, nothing], 1).corrected_p_values()[1] == 1.0
    assert Flips([], 1).corrected_p_values().size == 0


def test_holm_on_an_example_by_hand() -> None:
    # sorted: .01 x 4, .02 x 3, .03 x 2 (not below the one before), .5 x 1
    np.testing.assert_allclose(holm([0.03, 0.01, 0.5, 0.02]), [0.06, 0.04, 0.5, 0.06])
    assert holm([]).size == 0
    assert holm([0.9, 0.8]).max() == 1.0


def test_rank_ranges_on_an_example_by_hand() -> None:
    # the first beats the third and fourth, the second beats the fourth
    assert rank_ranges(4, [(0, 2), (0, 3), (1, 3)]) == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert rank_ranges(3, []) == [(1, 3)] * 3


def plain_delong(labels: Numbers, one: Numbers, other: Numbers) -> tuple[float, float]:
    """Difference and its standard error by the definition, over all pairs of patches."""
    positive, negative = labels == 1, labels == 0
    kernels = []
    for scores in (one, other):
        gap = scores[positive][:, None] - scores[negative][None, :]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    rows, columns = [kernel.mean(axis=1) for kernel in kernels], [kernel.mean(axis=0) for kernel in kernels]
    covariance = np.cov(rows) / positive.sum() + np.cov(columns) / negative.sum()
    contrast = np.array([1, -1])
    return kernels[0].mean() - kernels[1].mean(), float(np.sqrt(contrast @ covariance @ contrast))


def test_with_one_patch_to_a_case_it_is_delongs_own() -> None:
    first, second = two_models(cases=80, patches=1, seed=4, gain=0.5)
    tied = [np.round(model.probabilities, 1) for model in (first, second)]
    rounded = [Predictions(first.labels, scores, first.decisions, first.cases, 80) for scores in tied]
    found = clustered_delong(*rounded)
    assert found is not None
    assert (found.value, found.error) == pytest.approx(plain_delong(first.labels, *tied))
    assert found.value == pytest.approx(roc_auc_score(first.labels, tied[0]) - roc_auc_score(first.labels, tied[1]))


# The ovarian cancer data of DeLong et al. 1988, patients with all three tests, as SAS/STAT's manual prints them
# ("Comparing Receiver Operating Characteristic Curves", PROC LOGISTIC): albumin, total protein, K-G score, outcome.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3  5 1  3.9 6.8  3 1  2.8 4.8  6 0  3.2 5.8  3 1  0.9 4.0  5 0  2.5 5.7  8 0  1.6 5.6  5 1
3.8 5.7  5 1  3.7 6.7  6 1  3.2 5.4  4 1  3.8 6.6  6 1  4.1 6.6  5 1  3.6 5.7  5 1  4.3 7.0  4 1  3.6 6.7  4 0
2.3 4.4  6 1  4.2 7.6  4 0  4.0 6.6  6 0  3.5 5.8  6 1  3.8 6.8  7 1  3.0 4.7  8 0  4.5 7.4  5 1  3.7 7.4  5 1
3.1 6.6  6 1  4.1 8.2  6 1  4.3 7.0  5 1  4.3 6.5  4 1  3.2 5.1  5 1  2.6 4.7  6 1  3.3 6.8  6 0  1.7 4.0  7 0
3.7 6.1  5 1  3.3 6.3  7 1  4.2 7.7  6 1  3.5 6.2  5 1  2.9 5.7  9 0  2.1 4.8  7 1  2.8 6.2  8 0  4.0 7.0  7 1
3.3 5.7  6 1  3.7 6.9  5 1  3.6 6.6  5 1
"""


def test_delongs_own_example_gives_the_published_areas_and_errors() -> None:
    albumin, protein, score, outcome = np.array(OVARIAN.split(), float).reshape(43, 4).T
    patients = range(43)
    models = {
        name: Predictions.from_arrays(outcome == 0, expit(values), outcome == 0, patients)
        for name, values in {"albumin": -albumin, "protein": -protein, "score": score}.items()
    }
    areas = {name: compute_metrics(model)["roc_auc"] for name, model in models.items()}
    assert areas == pytest.approx({"albumin": 0.7366, "protein": 0.6478, "score": 0.7258}, abs=5e-5)
    for name, value, error in (("albumin", 0.7366 - 0.7258, 0.0953), ("protein", 0.6478 - 0.7258, 0.1046)):
        found = clustered_delong(models[name], models["score"])
        assert found is not None
        assert found.value == pytest.approx(value, abs=1e-4)
        assert found.error == pytest.approx(error, abs=5e-5)


def test_it_agrees_with_resampling_cases() -> None:
    first, second = two_models(cases=150, patches=20, seed=5, gain=0.1)
    found = clustered_delong(first, second)
    draws = resample_cases(first.case_count, 400, 3)
    one, other = (compute_metrics_of_resamples(model, draws)["roc_auc"] for model in (first, second))
    assert found is not None
    assert found.value == pytest.approx(compute_metrics(first)["roc_auc"] - compute_metrics(second)["roc_auc"])
    assert found.error == pytest.approx((one - other).std(), rel=0.12)


def test_patches_taken_for_independent_would_feign_certainty() -> None:
    first, second = two_models(cases=60, patches=20, seed=6)
    found = clustered_delong(first, second)
    assert found is not None
    assert found.error > 1.3 * plain_delong(first.labels, first.probabilities, second.probabilities)[1]


def test_a_class_in_a_single_case_has_no_variance() -> None:
    one = Predictions.from_arrays([1, 1, 0, 0], [0.9, 0.2, 0.4, 0.1], [1, 0, 0, 0], ["A", "A", "B", "C"])
    assert clustered_delong(one, one) is None
