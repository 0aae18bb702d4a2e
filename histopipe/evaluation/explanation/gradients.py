"""Gradients on any Keras backend; no other module depends on the backend for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from histopipe.core.errors import EvaluationError

Function = Callable[[Any], Any]


def gradient_of_sum(function: Function, points: Any) -> Any:
    """Compute the derivative of the sum of `function(points)` by `points`; the result has their shape.

    If each output depends on its own point only, as those of a network on a batch do, this computes the gradient of
    every output in one pass.

    Args:
        function: a function of Keras operations that changes no state.
        points: a floating-point tensor of the backend.

    Raises:
        EvaluationError: the backend has no gradients.
    """
    backends = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}
    name = keras.backend.backend()
    if name not in backends:
        raise EvaluationError(f"Keras on {name} has no gradients: set KERAS_BACKEND to one of {', '.join(backends)}")
    return backends[name](lambda values: ops.sum(function(values)), points)


def without_gradients() -> AbstractContextManager[Any]:
    """Return a context that keeps nothing for later gradients; only torch would keep every layer's output otherwise."""
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
