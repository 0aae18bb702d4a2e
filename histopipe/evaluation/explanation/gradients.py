"""Gradients by what the Keras backend offers: the one place that asks which it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from histopipe.core.errors import EvaluationError

Function = Callable[[Any], Any]


def gradient_of_sum(function: Function, points: Any) -> Any:
    """Derivative of the sum of `function(points)` by `points`, of their shape.

    Where each output depends on its own point alone, as those of a network on a batch do, this is every one's own
    gradient in one pass.

    Args:
        function: made of Keras operations; it changes no state.
        points: a floating tensor of the backend.

    Raises:
        EvaluationError: the backend has no gradients.
    """
    found = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}
    name = keras.backend.backend()
    if name not in found:
        raise EvaluationError(f"Keras on {name} has no gradients: set KERAS_BACKEND to one of {', '.join(found)}")
    return found[name](lambda values: ops.sum(function(values)), points)


def without_gradients() -> AbstractContextManager[Any]:
    """Inside it, nothing is kept for gradients to come; torch alone would keep every layer's output otherwise."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _by_tensorflow(function: Function, points: Any) -> Any:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        total = function(points)
    return tape.gradient(total, points)


def _by_jax(function: Function, points: Any) -> Any:
    import jax

    return jax.grad(function)(points)


def _by_torch(function: Function, points: Any) -> Any:
    import torch

    leaf = points.detach().requires_grad_(True)
    return torch.autograd.grad(function(leaf), leaf)[0]
