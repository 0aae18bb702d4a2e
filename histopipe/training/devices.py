"""A training's use of the machine: precision, compilation, and GPUs that share its batches.

Nothing happens at import, and no backend is loaded before a function needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from histopipe.core.errors import TrainingError
from histopipe.core.params import TrainParams
from histopipe.networks.backend import backend_name
from histopipe.training.plan import Training

if TYPE_CHECKING:
    import keras

DEVICES_VARIABLE = "HISTOPIPE_DEVICES"  # devices of `devices: all`, as in `GPU:0,GPU:2`; unset: every GPU
FULL, MIXED = "float32", "mixed_bfloat16"  # Keras' names
AMPERE = (8, 0)  # compute capability; the first generation of NVIDIA GPUs with units for bfloat16


@dataclass(frozen=True)
class Devices:
    """The devices, precision and compilation of one training.

    Attributes:
        policy: Keras' dtype policy for the trained model; its weights are float32 under either.
        jit_compile: whether XLA compiles a step; `auto` leaves it to the backend.
        shared_by: TensorFlow's names of the devices that share each batch; empty where one computes it all.
    """

    policy: str = FULL
    jit_compile: bool | Literal["auto"] = False
    shared_by: tuple[str, ...] = ()

    def summary(self) -> dict[str, str | bool | int]:
        """Return the parameters that the MLflow run records."""
        return {"precision": self.policy, "jit_compile": self.jit_compile, "devices": max(1, len(self.shared_by))}

    @contextmanager
    def building(self) -> Iterator[None]:
        """Set policy and devices for building and compiling the trained model inside the block."""
        with _policy(self.policy), self._strategy_scope():
            yield

    def _strategy_scope(self) -> Any:
        if not self.shared_by:
            return nullcontext()
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(list(self.shared_by)).scope()

    def synchronize(self, network: keras.Model) -> keras.Model:
        """Let batch norms see the whole batch where several devices share it, and return the network.

        With statistics per device, eight GPUs would train a recipe's 32 patches like a recipe of 4: noisier norms, and
        another loss. With joint statistics, any number of devices gives the same result as one, but for rounding.
        """
        import keras

        if self.shared_by:
            for layer in network._flatten_layers():
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True
        return network

    def share(self, training: Training) -> Training:
        """Return the training with the number of devices that share it; each gets the same number of patches.

        A device without a patch in the last batch would make its loss, and with it every weight, not a number.

        Raises:
            TrainingError: the batch size can't be shared evenly.
        """
        count, size = max(1, len(self.shared_by)), training.recipe.batch_size
        if size % count:
            raise TrainingError(
                f"recipes.{training.name}.batch_size {size} can't be shared evenly by {count} devices: "
                f"make it a multiple of {count}, or set train.devices: one"
            )
        return replace(training, sharers=count)

    def to_saved(self, network: keras.Model, rebuild: Callable[[], keras.Model]) -> keras.Model:
        """Return the trained network as it is saved: float32 throughout, and on one device.

        Args:
            network: trained network.
            rebuild: builds the same network, with any weights.
        """
        if self.policy == FULL and not self.shared_by:
            return network
        with _policy(FULL):
            copy = rebuild()
        copy.set_weights(network.get_weights())
        return copy


def choose_devices(execution: TrainParams) -> Devices:
    """Choose devices and precision for this machine by `train.precision` and `train.devices`.

    XLA compiles for GPUs; on the CPU it was eight times slower than the default for separable convolutions, and a
    step that several devices share can't be compiled as a whole.

    Raises:
        TrainingError: several devices are set, and the backend can't share a batch.
    """
    shared_by = _sharing_devices() if execution.devices == "all" else ()
    compiled = _gpu_count() > 0 and not shared_by
    return Devices(_policy_for(execution.precision), compiled if backend_name() == "tensorflow" else "auto", shared_by)


def number(variable: Any) -> float:
    """Return the value of a scalar variable; `float` itself refuses one that several devices share."""
    from keras import ops

    return float(ops.convert_to_numpy(variable))


def _policy_for(precision: str) -> str:
    if precision == "auto":
        return MIXED if _gpu_count() and _capability() >= AMPERE else FULL
    return MIXED if precision == "bfloat16" else FULL


def _sharing_devices() -> tuple[str, ...]:
    if backend_name() != "tensorflow":
        raise TrainingError(
            f"train.devices: all needs TensorFlow, and Keras runs on {backend_name()}: "
            "set KERAS_BACKEND=tensorflow, or train.devices: one"
        )
    named = [name.strip() for name in os.environ.get(DEVICES_VARIABLE, "").split(",") if name.strip()]
    names = named or [f"GPU:{number}" for number in range(_gpu_count())]
    unknown = set(names) - _logical_devices()
    if unknown:
        raise TrainingError(f"{DEVICES_VARIABLE} names {', '.join(sorted(unknown))}, which this machine doesn't have")
    return tuple(names) if len(names) > 1 else ()


def _logical_devices() -> set[str]:
    import tensorflow as tf

    return {device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()}


def _gpu_count() -> int:
    """Count the GPUs that the backend sees."""
    if backend_name() == "tensorflow":
        import tensorflow as tf

        return len(tf.config.list_physical_devices("GPU"))
    if backend_name() == "jax":
        import jax

        return sum(device.platform == "gpu" for device in jax.local_devices())
    if backend_name() == "torch":
        import torch

        return int(torch.cuda.device_count())
    return 0


def _capability() -> tuple[int, int]:
    """Return the lowest compute capability of the GPUs; (0, 0) where they report none, as AMD's and Apple's."""
    if backend_name() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return min(detail.get("compute_capability", (0, 0)) for detail in details)
    if backend_name() == "jax":
        import jax

        texts = [str(getattr(device, "compute_capability", "0.0")) for device in jax.local_devices()]
        return min(_version(text) for text in texts)
    import torch

    return min(torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count()))


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


@contextmanager
def _policy(name: str) -> Iterator[None]:
    """Set Keras' dtype policy to `name` inside the block."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
