"""Keras' optimizers with each variable's update in one of TensorFlow's kernels, for the TensorFlow backend.

Keras composes an update from elementwise operations, some twenty for Adam, each a pass over memory and each traced for
every variable: DenseNet201 has 606. The kernels compute the same formulas in one pass.
"""

from __future__ import annotations

from typing import Any

import keras


class _AdamKernel:
    """Adam as Keras computes it (Kingma & Ba 2015, arXiv:1412.6980, section 2: the order of computation before 2.1)."""

    def _backend_update_step(self: Any, gradients: Any, variables: Any, learning_rate: Any) -> None:
        """Compute the values that all variables of a step share once, then update the variables."""
        import tensorflow as tf

        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, "float32")
        numbers = {"lr": learning_rate, "beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}
        shared = {name: tf.cast(value, "float32") for name, value in numbers.items()}
        powers = {f"{name}_power": shared[name] ** step for name in ("beta1", "beta2")}
        self._shared = tuple((shared | powers).items())
        super()._backend_update_step(gradients, variables, learning_rate)  # type: ignore[misc]

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its two moments."""
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        import tensorflow as tf

        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            grad=tf.cast(gradient, variable.dtype),
            **{name: tf.cast(value, variable.dtype) for name, value in self._shared},
        )


class _MomentumKernel:
    """Gradient descent with momentum, Nesterov's or plain, as Keras computes it."""

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its momentum."""
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        import tensorflow as tf

        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )


class FusedAdam(_AdamKernel, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, one kernel for each variable."""


class FusedAdamW(_AdamKernel, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, one kernel for each variable; the decay stays Keras' own."""


class FusedSGD(_MomentumKernel, keras.optimizers.SGD):
    """`keras.optimizers.SGD`, one kernel for each variable."""
