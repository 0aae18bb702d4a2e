"""Keras' optimizers with each variable's update in one of TensorFlow's kernels, for the TensorFlow backend.

Keras composes an update from elementwise operations, some twenty for Adam, each a pass over memory and each traced for
every variable: DenseNet201 has 606. The kernels compute the same formulas in one pass.
"""

from __future__ import annotations

from typing import Any

import keras


class _AdamKernel:
    """Adam as Keras has it (Kingma & Ba 2015, arXiv:1412.6980, section 2: the order of computation before 2.1)."""

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable and its two moments."""
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        import tensorflow as tf

        place = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2, epsilon = (tf.cast(value, variable.dtype) for value in (self.beta_1, self.beta_2, self.epsilon))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


class _MomentumKernel:
    """Gradient descent with momentum, Nesterov's or plain, as Keras has it."""

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable and its momentum."""
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
