"""Differences between models graded on the same cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from benchmarks.paired_coverage import coverage
from histopipe.evaluation.delong import clustered_delong
from histopipe.evaluation.differences import difference, holm, rank_ranges
from histopipe.evaluation.intervals import draw_cases
from histopipe.evaluation.metrics import Numbers, Predictions, measure, measure_resamples


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


def resampled(first: Predictions, second: Predictions, seed: int = 3) -> tuple[float, Numbers]:
    draws = draw_cases(first.case_count, 400, seed)
    one, other = measure_resamples(first, draws), measure_resamples(second, draws)
    return measure(first)["roc_auc"] - measure(second)["roc_auc"], one["roc_auc"] - other["roc_auc"]


def test_the_interval_leaves_out_0_exactly_where_p_is_below_05() -> None:
    for seed in range(30):
        value, spread = resampled(*two_models(30, 20, seed, gain=0.25))
        found = difference(value, spread, 29)
        assert (found["low"] > 0 or found["high"] < 0) == (found["p"] < 0.05)


def test_a_difference_rests_on_its_cases_t_distribution() -> None:
    spread = np.random.default_rng(0).normal(0, 0.02, 500)
    found = difference(0.05, spread, freedom=10)
    error = spread.std(ddof=1)
    assert found["high"] - found["value"] == pytest.approx(2.2281 * error, rel=1e-4)  # t quantile of a table
    assert found["p"] == pytest.approx(2 * (1 - stats.t.cdf(0.05 / error, 10)))


def test_equal_models_are_told_apart_about_one_time_in_twenty() -> None:
    p_values = [difference(*resampled(*two_models(40, 15, seed)), 39)["p"] for seed in range(200)]
    assert 2 <= sum(p < 0.05 for p in p_values) <= 21  # 200 draws at .05: 10 plus or minus 3.5 standard errors


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_intervals_of_differences_hold_the_truth_about_as_often_as_they_say(gain: float) -> None:
    (shares, _), _ = coverage(cases=30, data_sets=150, resamples=200, seed=1, gain=gain)
    assert (shares >= 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / 150)).all(), shares  # .888; 2,000 data sets are in the docs


def test_a_model_compared_with_itself_does_not_differ() -> None:
    first, _ = two_models(20, 10, 1)
    found = difference(*resampled(first, first), 19)
    assert (found["value"], found["p"]) == (0.0, 1.0)
    assert found["low"] < 0 < found["high"]


def test_a_single_case_or_an_undefined_difference_tells_nothing() -> None:
    assert difference(0.3, np.zeros(5), 0) == {"value": 0.3, "low": -1.0, "high": 1.0, "p": 1.0}
    assert set(difference(float("nan"), np.zeros(5), 9).values()) == {None}


@pytest.mark.parametrize("value", [0.05, 0.3, 0.36, 0.6, 1.0])
def test_without_spread_interval_and_p_value_still_agree(value: float) -> None:
    found = difference(value, np.full(9, value), freedom=9)
    assert (found["low"] > 0) == (found["p"] < 0.05)


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
        name: Predictions.of(outcome == 0, expit(values), outcome == 0, patients)
        for name, values in {"albumin": -albumin, "protein": -protein, "score": score}.items()
    }
    areas = {name: measure(model)["roc_auc"] for name, model in models.items()}
    assert areas == pytest.approx({"albumin": 0.7366, "protein": 0.6478, "score": 0.7258}, abs=5e-5)
    for name, value, error in (("albumin", 0.7366 - 0.7258, 0.0953), ("protein", 0.6478 - 0.7258, 0.1046)):
        found = clustered_delong(models[name], models["score"])
        assert found is not None
        assert found.value == pytest.approx(value, abs=1e-4)
        assert found.error == pytest.approx(error, abs=5e-5)


def test_it_agrees_with_resampling_cases() -> None:
    first, second = two_models(cases=150, patches=20, seed=5, gain=0.1)
    found = clustered_delong(first, second)
    value, spread = resampled(first, second)
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.error == pytest.approx(spread.std(), rel=0.12)


def test_patches_taken_for_independent_would_feign_certainty() -> None:
    first, second = two_models(cases=60, patches=20, seed=6)
    found = clustered_delong(first, second)
    assert found is not None
    assert found.error > 1.3 * plain_delong(first.labels, first.probabilities, second.probabilities)[1]


def test_a_class_in_a_single_case_has_no_variance() -> None:
    one = Predictions.of([1, 1, 0, 0], [0.9, 0.2, 0.4, 0.1], [1, 0, 0, 0], ["A", "A", "B", "C"])
    assert clustered_delong(one, one) is None
