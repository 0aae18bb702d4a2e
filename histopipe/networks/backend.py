"""The library below Keras: TensorFlow, JAX or Torch."""

from __future__ import annotations

import os
from contextlib import suppress

OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory")  # as TensorFlow, JAX and Torch name it


def backend_name() -> str:
    """Return the name of Keras' backend: `tensorflow`, `jax` or `torch`."""
    import keras

    return str(keras.backend.backend())


def is_on_tensorflow_cpu() -> bool:
    """Return whether TensorFlow computes and sees no GPU; only there our faster kernels replace its own."""
    if backend_name() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def grow_gpu_memory() -> None:
    """Let the backend take GPU memory as it needs it, rather than all at once; call it before the first tensor."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX reads it when it first looks at the GPU
    if backend_name() == "tensorflow":
        import tensorflow as tf

        with suppress(RuntimeError):  # too late, as in a notebook that has already computed something
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)


def is_out_of_memory(problem: Exception) -> bool:
    """Return whether a backend's error, of whatever type, states that memory ran out."""
    message = f"{type(problem).__name__}: {problem}"
    return isinstance(problem, MemoryError) or any(word in message for word in OUT_OF_MEMORY)
