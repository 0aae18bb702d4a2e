"""Running a network over patches batch by batch: the one loop, whatever computes a batch.

`KerasNetwork` is here, `CompiledNetwork` in `histopipe.networks.openvino`, the choice between them in
`histopipe.networks.predictor`. A training depends on this file, and not on those two.
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
from histopipe.networks.backend import on_tensorflow_cpu

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 256  # large enough to keep a few cores busy; does not change the result beyond rounding

Outputs = list[NDArray[np.float32]]  # one array (patches, width) for each output of a network
Keep = Callable[[Sequence[NDArray[Any]]], None]


def logit_network(network: keras.Model) -> keras.Model:
    """Return the part of a network that ends before its sigmoid; it shares the network's weights.

    Raises:
        ValueError: the network has no layer of that name.
    """
    import keras

    from histopipe.networks.architectures.blocks import OUTPUT_LAYER

    return for_prediction(keras.Model(network.input, network.get_layer(OUTPUT_LAYER).output))


def for_prediction(network: keras.Model) -> keras.Model:
    """Let a network predict by TensorFlow's own kernels where there is no GPU; returns it.

    Left alone, Keras has XLA compile every network that wasn't compiled for training, and anew for each size of a
    batch. On a CPU that costs more than it gains: with Keras 3.15 on one core, CancerNet took 21 times as long for a
    batch, and DenseNet201 72 s of CPU before its first one instead of 16.
    """
    if on_tensorflow_cpu():
        network.jit_compile = False
    return network


class Runtime(ABC):
    """Compute a network's outputs in batches of fixed sizes, for one thread at a time.

    Attributes:
        sizes: of batches, in patches, ascending; a smaller batch is filled up with zeros to the next size, and what is
            computed of these is cut off.
        widths: of the network's outputs.
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]

    @abstractmethod
    def start(self, batch: Patches, keep: Keep) -> None:
        """Have a full batch computed; `keep` gets its outputs, now or before `finish` returns, in any order."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all that was started has been kept."""

    def predict(
        self, take: Callable[[slice], Patches], count: int, advance: Callable[[int], Any] = lambda _: None
    ) -> Outputs:
        """Compute the outputs of `count` patches, in their order.

        Args:
            take: gives the patches of a slice, uint8 (patches, height, width, 3); called batch by batch.
            count: of all patches.
            advance: is told how many patches each batch had.

        Returns:
            Float32 (count, width) for each output.
        """
        values = [np.empty((count, width), np.float32) for width in self.widths]
        try:
            for start in range(0, count, self.sizes[-1]):
                batch = take(slice(start, start + self.sizes[-1]))
                self.start(_filled(batch, self.sizes), partial(_keep, values, start))
                advance(len(batch))
        finally:
            self.finish()  # even then: what still runs reads a batch and writes into `values`
        return values

    def predict_rows(self, store: PatchStore, rows: Rows, advance: Callable[[int], Any] = lambda _: None) -> Outputs:
        """Compute the outputs of patches at `rows` of the store, as `predict` does."""
        return self.predict(lambda part: store.gather(rows[part]), len(rows), advance)


class KerasNetwork(Runtime):
    """Let Keras compute a network.

    Args:
        network: from uint8 patches to one array (batch, width), or several.
        sizes: of batches. They are few, since a network is traced anew for another one, which takes a deep one long.
    """

    def __init__(self, network: keras.Model, sizes: tuple[int, ...] = (BATCH_SIZE,)) -> None:
        self._network = for_prediction(network)
        self.sizes = sizes
        self.widths = tuple(output.shape[-1] for output in network.outputs)

    def start(self, batch: Patches, keep: Keep) -> None:
        """Compute a batch at once."""
        outputs = self._network.predict_on_batch(batch)
        keep([np.asarray(output) for output in (outputs if isinstance(outputs, list) else [outputs])])

    def finish(self) -> None:
        """Do nothing: all has been kept."""


def _filled(batch: Patches, sizes: tuple[int, ...]) -> Patches:
    """Fill a batch up to the smallest size that holds it."""
    size = next(size for size in sizes if size >= len(batch))
    if len(batch) == size:
        return batch
    filled = np.zeros((size, *batch.shape[1:]), batch.dtype)
    filled[: len(batch)] = batch
    return filled


def _keep(values: Outputs, start: int, outputs: Sequence[NDArray[Any]]) -> None:
    """Put a batch's outputs where they belong, without what was computed of the filling."""
    for value, output in zip(values, outputs, strict=True):
        part = value[start : start + len(output)]
        part[:] = output[: len(part)]


def keras_for(network: keras.Model, count: float) -> KerasNetwork:
    """Let Keras compute `count` patches in all: fewer than a full batch are computed as they are, not filled up."""
    return KerasNetwork(network, (max(1, int(min(BATCH_SIZE, count))),))


def predict_logits(logits: keras.Model, store: PatchStore, rows: Rows, title: str | None = None) -> NDArray[np.float64]:
    """Compute by Keras the log odds of the positive class at `rows` of the store.

    Logits rather than probabilities, since those of a sure network are rounded to 0 or 1 and can't be calibrated.

    Args:
        logits: what `logit_network` gives.
        store: holds the patches.
        rows: positions in the store's index.
        title: of the progress bar; none is shown without it.

    Returns:
        Float64 (rows,).
    """
    return row_logits(keras_for(logits, len(rows)), store, rows, title)


def row_logits(runtime: Runtime, store: PatchStore, rows: Rows, title: str | None = None) -> NDArray[np.float64]:
    """Compute log odds as `predict_logits` does, by any runtime of what `logit_network` gives."""
    with patch_bar(len(rows), title) as bar:
        return runtime.predict_rows(store, rows, bar.update)[0][:, 0].astype(np.float64)


def patch_bar(count: int, title: str | None) -> tqdm:
    """Make a progress bar over patches on stderr; it stays hidden without a title."""
    return tqdm(total=count, desc=title, unit="patch", unit_scale=True, file=sys.stderr, disable=not title)
