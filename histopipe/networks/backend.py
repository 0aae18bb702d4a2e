"""The library below Keras, whichever it is."""

from __future__ import annotations

import os
from contextlib import suppress

OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory")  # TensorFlow's, JAX's and Torch's word


def backend_name() -> str:
    """`tensorflow`, `jax` or `torch`."""
    import keras

    return str(keras.backend.backend())


def on_tensorflow_cpu() -> bool:
    """Whether TensorFlow computes, and sees no GPU: what it is worth to replace its slower kernels for."""
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
    """Whether a backend's error, of whatever type it has for that, says that memory ran out."""
    said = f"{type(problem).__name__}: {problem}"
    return isinstance(problem, MemoryError) or any(word in said for word in OUT_OF_MEMORY)
