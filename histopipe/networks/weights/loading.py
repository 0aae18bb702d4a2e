"""Load a file of weights into a network.

Three kinds of file are recognised by their suffixes. `.keras` is a whole network, of this project or another: layers
that match are loaded, others stay as they are. `.weights.h5` (Keras 3) and `.h5` (older, as most published ones) hold
weights alone and must fit as a whole: the network's backbone, or else the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import keras
from keras import ops

from histopipe.core.errors import WeightsError, one_line
from histopipe.networks.architectures.backbones import BACKBONE_LAYER, has_generated_name, published
from histopipe.networks.architectures.blocks import OUTPUT_LAYER

NETWORK_SUFFIX = ".keras"
SUFFIXES = (NETWORK_SUFFIX, ".h5", ".hdf5")


class LoadedVariables(NamedTuple):
    """The number of a network's variables that came from a file."""

    taken: int
    variables: int


def load_into(network: keras.Model, file: Path, backbone: str | None, title: str) -> LoadedVariables:
    """Load a file into a network, or into the backbone inside it.

    Args:
        network: a whole network, or a bare backbone.
        file: file to load.
        backbone: name of the network's backbone, if it has one.
        title: name of the file in messages.

    Raises:
        WeightsError: the file is damaged or fits neither.
    """
    if file.suffix != NETWORK_SUFFIX:
        return LoadedVariables(len(_load_whole(network, file, backbone, title).weights), len(network.weights))
    pairs = _matching_layers(_open(file, title), network)
    for source, target in pairs:
        target.set_weights(source.get_weights())
    taken = sum(len(target.weights) for _, target in pairs)
    if not taken:
        raise WeightsError(f"{title} has no layer that fits this network: give weights of the same architecture")
    return LoadedVariables(taken, len(network.weights))


def check_file(file: Path, network: keras.Model | None, backbone: str | None, title: str) -> None:
    """Check that a file can be loaded, before it is kept.

    Args:
        file: file to check.
        network: network that it must fit, where that can be built without the data set's image size.
        backbone: name of the network's backbone.
        title: name of the file in messages.

    Raises:
        WeightsError: the file is of no known kind, damaged, or doesn't fit.
    """
    if file.suffix not in SUFFIXES:
        raise WeightsError(f"{title} is no file of weights: its name should end with .keras, .weights.h5 or .h5")
    if network is not None:
        load_into(network, file, backbone, title)
    elif file.suffix == NETWORK_SUFFIX:
        _open(file, title)
    elif not _is_hdf5(file):
        raise WeightsError(f"{title} is damaged: it is no HDF5 file; fetch or save it again")


def _open(file: Path, title: str) -> keras.Model:
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as problem:  # a damaged or foreign file fails in as many ways as there are bytes
        raise WeightsError(
            f"{title} can't be read as a Keras network ({one_line(problem, 160)}): save it again"
        ) from None


def _is_hdf5(file: Path) -> bool:
    import h5py

    try:
        with h5py.File(file):
            return True
    except OSError:
        return False


def _load_whole(network: keras.Model, file: Path, backbone: str | None, title: str) -> keras.Model:
    """Load a file of weights into the first part that it fits, and return that part."""
    reasons = []
    for part in dict.fromkeys((_backbone_in(network), network)):
        before = part.get_weights()
        try:
            _load(part, file, backbone if part is _backbone_in(network) else None)
            return part
        except Exception as problem:  # h5py and Keras raise whatever a wrong byte leads to
            part.set_weights(before)
            reasons.append(one_line(problem, 160))
    raise WeightsError(f"{title} doesn't fit this network ({reasons[0]}): give weights of the same architecture")


def _load(part: keras.Model, file: Path, backbone: str | None) -> None:
    legacy = not file.name.endswith(".weights.h5")
    if legacy and backbone and backbone.lower() in published.constructors():
        published.load_published(part, backbone.lower(), file)
    else:
        part.load_weights(file)
    if not all(bool(ops.all(ops.isfinite(ops.cast(weight, "float32")))) for weight in part.weights):
        raise ValueError("it holds values that are no numbers")


def _backbone_in(network: keras.Model) -> keras.Model:
    """Return the extractor inside a network; the network itself where there is none or it is one."""
    return next((layer for layer in network.layers if layer.name == BACKBONE_LAYER), network)


def _matching_layers(source: keras.Model, target: keras.Model) -> list[tuple[keras.Layer, keras.Layer]]:
    """Pair the layers of two networks that match: in order where their number agrees, else by name.

    Generated names don't count, since Keras numbers layers through a whole process; nor does the output's, whose
    weights are of use after the same layers only.
    """
    if target.name == BACKBONE_LAYER:
        source = _backbone_in(source)
    ours, theirs = _weighted(target), _weighted(source)
    if len(ours) == len(theirs):
        pairs = list(zip(theirs, ours, strict=True))
    else:
        named = {layer.name: layer for layer in theirs if not has_generated_name(layer)}
        pairs = [(named[layer.name], layer) for layer in ours if layer.name in named and layer.name != OUTPUT_LAYER]
    return [(theirs, ours) for theirs, ours in pairs if type(theirs) is type(ours) and _shapes(theirs) == _shapes(ours)]


def _weighted(model: keras.Model) -> list[keras.Layer]:
    """List layers with weights in the order in which they were built, also inside nested networks.

    A saved network that averages over symmetries nests its layers; a network that starts from it doesn't.
    """
    weighted = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            weighted += _weighted(layer)
        elif layer.weights:
            weighted.append(layer)
    return weighted


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
