"""Learning rates, losses and early ends are those that the recipes name."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

from histopipe.core.params import RecipeParams, ScheduleParams, parse_params
from histopipe.data.sampling import balanced_order
from histopipe.training.optimization import (
    average_momentum,
    best_epoch,
    build_loss,
    build_optimizer,
    build_schedule,
    has_stopped,
    plateau_rate,
)


def recipe(**changes: Any) -> RecipeParams:
    return RecipeParams(**({"optimizer": {"name": "sgd", "learning_rate": 0.1}, "epochs": 10} | changes))


def rate_at(step: int, **schedule: Any) -> float:
    """Of ten epochs with five steps each, starting from .1."""
    built = build_schedule(ScheduleParams(**schedule), 0.1, epochs=10, steps_per_epoch=5)
    return float(built(step)) if callable(built) else built


def history(*scores: float) -> list[dict[str, float]]:
    return [{"validation/roc_auc": score} for score in scores]


def test_the_learning_rate_falls_as_the_tutorial_has_it(content: dict[str, Any]) -> None:
    optimizer = build_optimizer(parse_params(content).recipe("cancernet"), 100)
    optimizer.build([])
    for step in (0, 1, 1000):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(1e-2 / (1 + 1e-2 / 40 * step), rel=1e-6)


def test_a_linear_rate_reaches_zero_with_the_last_step() -> None:
    assert [rate_at(step, name="linear") for step in (0, 25, 50)] == pytest.approx([0.1, 0.05, 0.0])


def test_a_cosine_rises_and_then_falls_to_zero() -> None:
    rates = [rate_at(step, name="cosine", warmup_epochs=2) for step in range(51)]
    assert rates[:11] == pytest.approx([0.01 * step for step in range(11)])
    assert rates[30] == pytest.approx(0.05)  # half of the way down
    assert rates[50] == pytest.approx(0.0, abs=1e-9)
    assert max(rates) == pytest.approx(0.1)
    assert rate_at(20, name="cosine") == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.4)))


def test_a_short_training_spends_at_most_a_third_on_warming_up() -> None:
    built = build_schedule(ScheduleParams(name="cosine", warmup_epochs=5), 0.1, epochs=3, steps_per_epoch=10)
    assert callable(built)
    assert float(built(10)) == pytest.approx(0.1)
    assert float(built(30)) == pytest.approx(0.0, abs=1e-9)


def test_a_plateau_lowers_the_rate_after_its_patience_but_not_below_the_floor() -> None:
    schedule = ScheduleParams(name="plateau", factor=0.2, patience=2, floor=0.003)
    scores = [0.7, 0.8, 0.8, 0.79, 0.81, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    rates = [plateau_rate(history(*scores[:epoch]), schedule, 0.1) for epoch in range(len(scores) + 1)]
    assert rates == pytest.approx([0.1] * 4 + [0.02] * 3 + [0.004] * 2 + [0.003] * 3)


def test_a_training_stops_when_its_patience_is_over() -> None:
    assert not has_stopped(history(0.7, 0.8, 0.7), 2)
    assert has_stopped(history(0.7, 0.8, 0.7, 0.8), 2)
    assert not has_stopped(history(0.9, 0.1, 0.1, 0.1), None)
    assert not has_stopped([], 1)


def test_the_first_of_equally_good_epochs_is_the_best() -> None:
    assert best_epoch(history(0.7, 0.9, 0.9)) == 2
    assert best_epoch([]) == 0


def test_label_smoothing_moves_targets_towards_a_half() -> None:
    loss = build_loss(recipe(label_smoothing=0.2))
    expected = -(0.9 * math.log(0.7) + 0.1 * math.log(0.3))
    assert float(loss(np.array([[1.0]]), np.array([[0.7]]))) == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_is_that_of_its_paper() -> None:
    loss = build_loss(recipe(imbalance="focal"))
    labels, sure = np.array([[1.0], [0.0]]), np.array([[0.8], [0.8]])
    expected = [-0.25 * 0.2**2 * math.log(0.8), -0.75 * 0.8**2 * math.log(0.2)]
    assert float(loss(labels, sure)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_balanced_batches_hold_both_classes_in_equal_parts() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    order = np.random.default_rng(0).permutation(100)
    balanced = balanced_order(order, labels[order])
    assert len(balanced) == 100
    assert all(labels[balanced[start : start + 10]].sum() == 5 for start in range(0, 100, 10))
    assert set(np.flatnonzero(labels)) <= set(balanced)  # every patch of the rarer class
    negatives = balanced[labels[balanced] == 0]
    assert len(set(negatives)) == len(negatives) == 50


def test_a_short_training_averages_over_a_tenth_of_itself() -> None:
    averaged = recipe(keep="average", average_momentum=0.995)
    assert average_momentum(averaged, steps=10_000) == 0.995
    assert average_momentum(averaged, steps=100) == pytest.approx(0.9)
    assert average_momentum(averaged, steps=5) == 0.0
    steps = averaged.epochs * 4
    assert build_optimizer(averaged, 4).ema_momentum == max(0.0, 1 - 10 / steps)


def test_weight_decay_spares_scales_and_offsets() -> None:
    built = build_optimizer(recipe(optimizer={"name": "adamw", "learning_rate": 0.1}), 5)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Dense(3)(inputs)))
    built.build(model.trainable_variables)
    decayed = [variable.path for variable in model.trainable_variables if built._use_weight_decay(variable)]
    assert [path.rsplit("/", 1)[-1] for path in decayed] == ["kernel"]
