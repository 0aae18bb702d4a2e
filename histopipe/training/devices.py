"""What a training does with the machine: precision, compilation, and GPUs that share its batches.

Nothing happens at import, and no backend is loaded before it is asked.
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

DEVICES_VARIABLE = "HISTOPIPE_DEVICES"  # what `devices: all` means, as in `GPU:0,GPU:2`; every GPU where it is not set
FULL, MIXED = "float32", "mixed_bfloat16"  # Keras' names
AMPERE = (8, 0)  # compute capability; the first generation of NVIDIA GPUs with units for bfloat16


@dataclass(frozen=True)
class Devices:
    """How one training uses the machine.

    Attributes:
        policy: Keras' dtype policy for the trained model; its weights are float32 under either.
        jit_compile: whether XLA compiles a step; `auto` leaves it to the backend.
        shared_by: TensorFlow's names of the devices that share each batch; none where one does it all.
    """

    policy: str = FULL
    jit_compile: bool | Literal["auto"] = False
    shared_by: tuple[str, ...] = ()

    def summary(self) -> dict[str, str | bool | int]:
        """What the run's record says of it."""
        return {"precision": self.policy, "jit_compile": self.jit_compile, "devices": max(1, len(self.shared_by))}

    @contextmanager
    def building(self) -> Iterator[None]:
        """Build and compile the trained model inside this."""
        with _policy(self.policy), self._strategy_scope():
            yield

    def _strategy_scope(self) -> Any:
        if not self.shared_by:
            return nullcontext()
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(list(self.shared_by)).scope()

    def joined(self, network: keras.Model) -> keras.Model:
        """Let batch norms see the whole batch where several devices share it.

        With statistics per device, eight GPUs would train a recipe's 32 patches like a recipe of 4: noisier norms, and
        another loss. With them joined, as many devices as one likes give what one gives, but for rounding.
        """
        import keras

        if self.shared_by:
            for layer in network._flatten_layers():
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True
        return network

    def shared(self, training: Training) -> Training:
        """The training, told how many devices share it: each is given as many patches as the others.

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

    def settled(self, network: keras.Model, rebuild: Callable[[], keras.Model]) -> keras.Model:
        """The trained network as it is saved: float32 throughout, and of one device.

        Args:
            network: the trained one.
            rebuild: gives one like it, whatever its weights.
        """
        if self.policy == FULL and not self.shared_by:
            return network
        with _policy(FULL):
            copy = rebuild()
        copy.set_weights(network.get_weights())
        return copy


def choose_devices(wanted: TrainParams) -> Devices:
    """What `train.precision` and `train.devices` come to on this machine.

    XLA compiles for GPUs; on the CPU it was eight times slower than the default for separable convolutions, and a
    step that several devices share can't be compiled as a whole.

    Raises:
        TrainingError: several devices, and a backend that can't share.
    """
    shared_by = _sharing() if wanted.devices == "all" else ()
    compiled = _gpu_count() > 0 and not shared_by
    return Devices(_policy_for(wanted.precision), compiled if backend_name() == "tensorflow" else "auto", shared_by)


def number(variable: Any) -> float:
    """The value of a scalar variable; `float` itself refuses one that several devices share."""
    from keras import ops

    return float(ops.convert_to_numpy(variable))


def _policy_for(precision: str) -> str:
    if precision == "auto":
        return MIXED if _gpu_count() and _capability() >= AMPERE else FULL
    return MIXED if precision == "bfloat16" else FULL


def _sharing() -> tuple[str, ...]:
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
    """GPUs that the backend sees."""
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
    """The lowest compute capability among the GPUs; (0, 0) where they don't say, as AMD's and Apple's."""
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
    """Make `name` Keras' dtype policy for a while."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
