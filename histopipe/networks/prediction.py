"""Run a network over patches batch by batch, in one loop for all runtimes.

`KerasNetwork` is here, `CompiledNetwork` in `histopipe.networks.openvino`, the choice between them in
`histopipe.networks.predictor`. A training depends on this file, but not on those two.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.data.store import Patches, PatchStore, Rows
from histopipe.networks.backend import is_on_tensorflow_cpu

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 256  # large enough to keep a few cores busy; does not change the result beyond rounding

Outputs = list[NDArray[np.float32]]  # one array (patches, width) for each output of a network
Keep = Callable[[Sequence[NDArray[Any]]], None]


def logit_network(network: keras.Model) -> keras.Model:
    """Return the part of a network that ends before its sigmoid; it shares the network's weights.

    Raises:
        ValueError: the network has no output layer of this project.
    """
    import keras

    from histopipe.networks.architectures.blocks import OUTPUT_LAYER

    return for_prediction(keras.Model(network.input, network.get_layer(OUTPUT_LAYER).output))


def for_prediction(network: keras.Model) -> keras.Model:
    """Let a network predict by TensorFlow's own kernels where there is no GPU, and return it.

    By default, Keras has XLA compile every network that wasn't compiled for training, and again for each batch
    size. On a CPU that costs more than it gains: with Keras 3.15 on one core, CancerNet took 21 times as long for a
    batch, and DenseNet201 72 s of CPU before its first one instead of 16.
    """
    if is_on_tensorflow_cpu():
        network.jit_compile = False
    return network


class Runtime(ABC):
    """A way to compute a network's outputs in batches of fixed sizes, for one thread at a time.

    Attributes:
        sizes: batch sizes in patches, ascending; a smaller batch is padded with zeros to the next size, and the outputs
            of the padding are dropped.
        widths: widths of the network's outputs.
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]

    @abstractmethod
    def start(self, batch: Patches, keep: Keep) -> None:
        """Start computing a full batch; `keep` is called with its outputs before `finish` returns, in any order."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until the outputs of all started batches have been kept."""

    def predict(
        self, take: Callable[[slice], Patches], count: int, advance: Callable[[int], Any] = lambda _: None
    ) -> Outputs:
        """Compute the outputs of `count` patches, in their order.

        Args:
            take: returns the patches of a slice, uint8 (patches, height, width, 3); called batch by batch.
            count: number of all patches.
            advance: called with the number of patches of each batch.

        Returns:
            Float32 (count, width) for each output.
        """
        values = [np.empty((count, width), np.float32) for width in self.widths]
        try:
            for start in range(0, count, self.sizes[-1]):
                batch = take(slice(start, start + self.sizes[-1]))
                self.start(_padded(batch, self.sizes), partial(_keep, values, start))
                advance(len(batch))
        finally:
            self.finish()  # after a failure, too: running requests read a batch and write into `values`
        return values

    def predict_rows(self, store: PatchStore, rows: Rows, advance: Callable[[int], Any] = lambda _: None) -> Outputs:
        """Compute the outputs of patches at `rows` of the store, as `predict` does."""
        return self.predict(lambda part: store.gather(rows[part]), len(rows), advance)


class KerasNetwork(Runtime):
    """A network that Keras computes.

    Args:
        network: from uint8 patches to one or several arrays (batch, width).
        sizes: batch sizes. They are few, since a network is traced again for each, which takes long for a deep one.
    """

    def __init__(self, network: keras.Model, sizes: tuple[int, ...] = (BATCH_SIZE,)) -> None:
        self._network = for_prediction(network)
        self.sizes = sizes
        self.widths = tuple(output.shape[-1] for output in network.outputs)

    def start(self, batch: Patches, keep: Keep) -> None:
        """Compute a batch immediately."""
        outputs = self._network.predict_on_batch(batch)
        keep([np.asarray(output) for output in (outputs if isinstance(outputs, list) else [outputs])])

    def finish(self) -> None:
        """Do nothing: all outputs have been kept."""


def _padded(batch: Patches, sizes: tuple[int, ...]) -> Patches:
    """Pad a batch to the smallest size that holds it."""
    size = next(size for size in sizes if size >= len(batch))
    if len(batch) == size:
        return batch
    padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
    padded[: len(batch)] = batch
    return padded


def _keep(values: Outputs, start: int, outputs: Sequence[NDArray[Any]]) -> None:
    """Write a batch's outputs into `values`, without those of the padding."""
    for value, output in zip(values, outputs, strict=True):
        part = value[start : start + len(output)]
        part[:] = output[: len(part)]


def keras_for(network: keras.Model, count: float) -> KerasNetwork:
    """Let Keras compute `count` patches in all; fewer than a full batch are not padded."""
    return KerasNetwork(network, (max(1, int(min(BATCH_SIZE, count))),))


def predict_logits(logits: keras.Model, store: PatchStore, rows: Rows, title: str | None = None) -> NDArray[np.float64]:
    """Compute by Keras the log odds of the positive class at `rows` of the store.

    Logits rather than probabilities, since a confident network's are rounded to 0 or 1 and can't be calibrated.

    Args:
        logits: network that `logit_network` returns.
        store: holds the patches.
        rows: positions in the store's index.
        title: title of the progress bar; none is shown without it.

    Returns:
        Float64 (rows,).
    """
    return row_logits(keras_for(logits, len(rows)), store, rows, title)


def row_logits(runtime: Runtime, store: PatchStore, rows: Rows, title: str | None = None) -> NDArray[np.float64]:
    """Compute log odds at `rows` of the store by any runtime of a `logit_network`, float64 (rows,)."""
    with patch_bar(len(rows), title) as bar:
        return runtime.predict_rows(store, rows, bar.update)[0][:, 0].astype(np.float64)


def patch_bar(count: int, title: str | None) -> tqdm:
    """Create a progress bar over patches on stderr; it stays hidden without a title."""
    return tqdm(total=count, desc=title, unit="patch", unit_scale=True, file=sys.stderr, disable=not title)
