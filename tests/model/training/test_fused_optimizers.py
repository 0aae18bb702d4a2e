"""An update in one kernel moves weights as Keras' own does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from histopipe.training.fused_optimizers import FusedAdam, FusedAdamW, FusedSGD

STEPS = 25
PAIRS = {
    "adam": (FusedAdam, keras.optimizers.Adam, {}),
    "adam, other moments": (FusedAdam, keras.optimizers.Adam, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}),
    "amsgrad": (FusedAdam, keras.optimizers.Adam, {"amsgrad": True}),
    "adamw": (FusedAdamW, keras.optimizers.AdamW, {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.9}),
    "clipped": (FusedAdamW, keras.optimizers.AdamW, {"global_clipnorm": 0.5}),
    "descent": (FusedSGD, keras.optimizers.SGD, {}),
    "momentum": (FusedSGD, keras.optimizers.SGD, {"momentum": 0.9}),
    "nesterov": (FusedSGD, keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
}


def moved(kind: type[keras.optimizers.Optimizer], options: dict[str, Any]) -> list[np.ndarray]:
    """Weights and the optimizer's variables after some steps of a regression on a falling learning rate."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(64, 6)).astype(np.float32)
    targets = np.sin(inputs.sum(axis=1, keepdims=True))
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
    rate = keras.optimizers.schedules.CosineDecay(0.05, STEPS)
    network.compile(kind(learning_rate=rate, **options), "mse", jit_compile=False)
    for _ in range(STEPS):
        network.train_on_batch(inputs, targets)
    return [*network.get_weights(), *(np.asarray(variable.value) for variable in network.optimizer.variables)]


@pytest.mark.parametrize("name", PAIRS)
def test_weights_and_moments_are_those_of_the_stock_optimizer(name: str) -> None:
    fused, stock, options = PAIRS[name]
    expected, found = moved(stock, options), moved(fused, options)
    assert len(expected) == len(found)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
