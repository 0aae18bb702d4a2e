"""The metrics against a table worked out by hand, and against scikit-learn where weights and ties come in."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from threadpoolctl import threadpool_info, threadpool_limits

from histopipe.evaluation import metrics
from histopipe.evaluation.metrics import METRICS, Predictions, compute_metrics, compute_metrics_of_resamples

# Twelve patches of four cases: (case, label, probability). Label 1 is the positive class.
TABLE = [
    ("A", 1, 0.90),
    ("A", 1, 0.80),
    ("A", 0, 0.30),
    ("B", 1, 0.70),
    ("B", 0, 0.60),
    ("B", 0, 0.20),
    ("C", 0, 0.50),
    ("C", 1, 0.40),
    ("C", 0, 0.10),
    ("D", 1, 0.30),  # as probable as the negative of case A
    ("D", 0, 0.15),
    ("D", 0, 0.05),
]
THRESHOLD = 0.35  # calls .9 .8 .7 .6 .5 .4 positive: 4 hits, 2 false alarms, 1 miss (.3), 5 rejections

BY_HAND = {
    # Pairs of a positive and a negative: 5 x 7 = 35. The positives at .9, .8 and .7 stand above all 7
    # negatives, .4 above 5, .3 above 4 and level with one (half a pair): 7 + 7 + 7 + 5 + 4.5 = 30.5.
    "roc_auc": 30.5 / 35,
    # Precision where each positive is reached: 1/1, 2/2, 3/3, 4/6, and 5/8 behind the pair at .3.
    "average_precision": (1 + 1 + 1 + 4 / 6 + 5 / 8) / 5,
    "balanced_accuracy": (4 / 5 + 5 / 7) / 2,
    "f1": 8 / 11,  # 2 x 4 / (2 x 4 + 1 + 2)
    "sensitivity": 4 / 5,  # of the positive class
    "specificity": 5 / 7,
    "accuracy": 9 / 12,
    "precision": 4 / 6,
    # Positives: .01 + .04 + .09 + .36 + .49 = .99;
    # negatives: .36 + .25 + .09 + .04 + .0225 + .01 + .0025 = .775.
    "brier": 1.765 / 12,
    # Bins of width 1/15 hold one patch each but for the two at .3 (|.6 - 1| = .4); the others' |p - label|
    # are .1 .2 .3 .6 .5 .6 .2 .15 .1 .05, together 2.8.
    "calibration_error": 3.2 / 12,
}


def graded(cases: object, labels: object, probabilities: object, threshold: float) -> Predictions:
    values = np.asarray(probabilities, dtype=float)
    return Predictions.from_arrays(labels, values, values >= threshold, cases)


@pytest.fixture
def by_hand() -> Predictions:
    cases, labels, probabilities = zip(*TABLE, strict=True)
    return graded(cases, labels, probabilities, THRESHOLD)


@pytest.fixture
def drawn() -> Predictions:
    """Patches of 9 cases whose probabilities are often equal."""
    random = np.random.default_rng(5)
    cases, labels = random.integers(0, 9, 400), random.integers(0, 2, 400)
    return graded(cases, labels, np.clip(labels * 0.2 + random.random(400), 0, 1).round(1), 0.6)


def test_every_metric_is_what_the_table_gives_by_hand(by_hand: Predictions) -> None:
    assert compute_metrics(by_hand) == pytest.approx(BY_HAND, abs=1e-12)
    assert tuple(BY_HAND) == METRICS


def test_sensitivity_is_the_recall_of_the_positive_class(by_hand: Predictions) -> None:
    swapped = Predictions.from_arrays(
        1 - by_hand.labels, 1 - by_hand.probabilities, 1 - by_hand.decisions, by_hand.cases.astype(str)
    )
    assert compute_metrics(swapped)["sensitivity"] == pytest.approx(BY_HAND["specificity"])
    assert compute_metrics(swapped)["specificity"] == pytest.approx(BY_HAND["sensitivity"])
    assert compute_metrics(swapped)["roc_auc"] == pytest.approx(BY_HAND["roc_auc"])


def test_a_resample_counts_each_patch_as_often_as_its_case_was_drawn(by_hand: Predictions) -> None:
    drawn = compute_metrics_of_resamples(by_hand, np.array([[2.0, 0, 1, 1]]))
    copies = [row for row in TABLE for _ in range({"A": 2, "B": 0, "C": 1, "D": 1}[row[0]])]
    cases, labels, probabilities = zip(*copies, strict=True)
    expected = compute_metrics(graded(cases, labels, probabilities, THRESHOLD))
    assert {name: values[0] for name, values in drawn.items()} == pytest.approx(expected)


@pytest.mark.parametrize("whole", [True, False])
def test_weights_and_ties_agree_with_scikit_learn(drawn: Predictions, whole: bool) -> None:
    random = np.random.default_rng(8)
    multiplicities = random.integers(0, 4, (6, 9)).astype(float) if whole else random.random((6, 9))
    found = compute_metrics_of_resamples(drawn, multiplicities)
    for number, drawn_cases in enumerate(multiplicities):
        expected = by_scikit_learn(drawn, drawn_cases[drawn.cases])
        assert {name: values[number] for name, values in found.items()} == pytest.approx(expected, abs=1e-12)


def by_scikit_learn(predictions: Predictions, weights: np.ndarray) -> dict[str, float]:
    labels, decisions, scores = predictions.labels, predictions.decisions, predictions.probabilities
    recall = sklearn_metrics.recall_score
    return {
        "roc_auc": sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weights),
        "average_precision": sklearn_metrics.average_precision_score(labels, scores, sample_weight=weights),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, decisions, sample_weight=weights),
        "f1": sklearn_metrics.f1_score(labels, decisions, sample_weight=weights),
        "sensitivity": recall(labels, decisions, sample_weight=weights, pos_label=1),
        "specificity": recall(labels, decisions, sample_weight=weights, pos_label=0),
        "accuracy": sklearn_metrics.accuracy_score(labels, decisions, sample_weight=weights),
        "precision": sklearn_metrics.precision_score(labels, decisions, sample_weight=weights),
        "brier": sklearn_metrics.brier_score_loss(labels, scores, sample_weight=weights),
        "calibration_error": calibration_error_by_loop(labels, scores, weights),
    }


def calibration_error_by_loop(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    gaps = 0.0
    for number in range(15):
        upper = (number + 1) / 15 if number < 14 else 1.01
        inside = (scores >= number / 15) & (scores < upper)
        gaps += abs(np.sum(weights[inside] * (scores[inside] - labels[inside])))
    return gaps / weights.sum()


def test_resamples_worked_off_in_pieces_give_the_same(drawn: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    multiplicities = np.random.default_rng(1).integers(0, 3, (50, 9)).astype(float)
    whole = compute_metrics_of_resamples(drawn, multiplicities)
    monkeypatch.setattr(metrics, "RESAMPLES_AT_ONCE", 7)
    monkeypatch.setattr(metrics, "STEPS_AT_ONCE", 3)
    pieces = compute_metrics_of_resamples(drawn, multiplicities)
    for name in METRICS:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-12, equal_nan=True)


def test_small_products_are_left_to_one_thread(drawn: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that wait for each other took 25 times as long on a busy machine; what follows has its threads again."""
    reckon, seen = metrics._sums, []

    def watched(*arguments: object) -> object:
        seen.append(blas_threads())
        return reckon(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(metrics, "_sums", watched)
    with threadpool_limits(2, "blas"):
        compute_metrics(drawn)
        assert blas_threads() == {2}
    assert seen == [{1}]


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_what_a_resample_leaves_undefined_is_nan() -> None:
    predictions = graded(["A", "A", "B"], [1, 1, 0], [0.9, 0.2, 0.1], 0.5)
    found = compute_metrics_of_resamples(predictions, np.array([[2.0, 0], [0, 2]]))  # only case A, then only case B
    undefined = {name: list(np.isnan(values)) for name, values in found.items() if np.isnan(values).any()}
    assert undefined == {
        "roc_auc": [True, True],
        "average_precision": [False, True],
        "balanced_accuracy": [True, True],
        "f1": [False, True],
        "sensitivity": [False, True],
        "specificity": [True, False],
        "precision": [False, True],
    }


def test_cases_are_numbered_by_their_ids_whatever_the_order_of_patches() -> None:
    forward = Predictions.from_arrays([1, 0, 1], [0.1, 0.2, 0.3], [0, 0, 1], ["10", "9", "10"])
    backward = Predictions.from_arrays([1, 0, 1], [0.3, 0.2, 0.1], [1, 0, 0], ["10", "9", "10"])
    assert forward.case_count == 2
    assert np.array_equal(forward.cases, backward.cases)
