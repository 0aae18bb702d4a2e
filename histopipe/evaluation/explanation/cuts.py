"""Cuts that divide a network at one of its layers into a front, which computes that layer's maps, and a back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from histopipe.core.errors import EvaluationError
from histopipe.networks.architectures.blocks import OUTPUT_LAYER
from histopipe.networks.symmetry import ONE_VIEW, is_averaged

# Positions along a side: a histonet of 30 epochs on real patches gained .033 on chance with maps of 3 x 3 positions,
# .046 with 6 x 6 and no more with 12 x 12 or 24 x 24 (on the test patches of one split).
LEAST_SIDE = 4

Step = Callable[[Any], Any]
Shape = tuple[int, int, int]
LayerFilter = Callable[[str, Shape], bool]


@dataclass(frozen=True)
class Cut:
    """Two parts of a network that sees one orientation.

    Attributes:
        layer: name of the layer after which the network is cut.
        shape: height, width and channels of that layer's maps.
        front: steps from raw patches (batch, height, width, 3) to the maps (batch, *shape).
        back: steps from the maps to the logit (batch, 1).
    """

    layer: str
    shape: Shape
    front: tuple[Step, ...]
    back: tuple[Step, ...]


def cut_network(network: keras.Model, layer: str | None = None) -> Cut:
    """Cut a network after a layer that every path to the logit runs through; weights are shared.

    Args:
        network: a trained network, which may be calibrated or averaged over symmetries. Of an averaged network, the
            part that sees one orientation is cut.
        layer: name of the layer, also inside a backbone. By default, the last layer whose maps have `LEAST_SIDE`
            positions or more along each side; if there is none, the last layer with more than one position.

    Raises:
        EvaluationError: there is no such layer.
    """
    if layer is not None:
        choices = _cuts(network, lambda name, shape: name == layer)
    else:
        choices = (cut for side in (LEAST_SIDE, 2) for cut in _cuts(network, _has_side(side)))
    cut = next(choices, None)
    if cut is None:
        raise EvaluationError(
            f"the network can't be explained by {f'its layer {layer!r}' if layer else 'any of its layers'}: "
            "the layer must have more than one position, and every path must run through it"
        )
    return cut


def _has_side(side: int) -> LayerFilter:
    return lambda name, shape: min(shape[:2]) >= side


def _cuts(network: keras.Model, accepts: LayerFilter) -> Iterator[Cut]:
    """Yield possible cuts, from the last layer to the first."""
    output = network.get_layer(OUTPUT_LAYER)
    if is_averaged(network):
        inner = network.get_layer(ONE_VIEW)
        return _cuts_within(inner, inner.outputs[0], accepts, (), (output,))
    return _cuts_within(network, output.output, accepts, (), ())


def _cuts_within(
    model: keras.Model, end: keras.KerasTensor, accepts: LayerFilter, front: tuple[Step, ...], back: tuple[Step, ...]
) -> Iterator[Cut]:
    """Yield cuts of a model, which may be nested in another one.

    Args:
        model: the model to cut.
        end: the tensor of the model to which its back part leads.
        accepts: which layers are suitable.
        front: steps before the model.
        back: steps after the tensor `end`.
    """
    for layer in reversed(model.layers):
        start, maps = _input_and_output(layer)
        shape = tuple(getattr(maps, "shape", ()))[1:]
        suitable = len(shape) == 3 and all(shape) and accepts(layer.name, shape)
        nested = isinstance(layer, keras.Model)
        rest = _between(maps, end) if suitable or nested else None
        if rest is None:
            continue
        if suitable:
            yield Cut(layer.name, shape, (*front, keras.Model(model.inputs[0], maps)), (*rest, *back))
        if nested:
            before = (*front, keras.Model(model.inputs[0], start))
            yield from _cuts_within(layer, layer.outputs[0], accepts, before, (*rest, *back))


def _input_and_output(layer: keras.Layer) -> tuple[Any, Any]:
    """Return input and output of a layer's first call; the attributes of a nested model refer to its inside instead."""
    if isinstance(layer, keras.layers.InputLayer):
        return None, layer.output
    return keras.Operation.input.fget(layer), keras.Operation.output.fget(layer)


def _between(start: keras.KerasTensor, end: keras.KerasTensor) -> tuple[Step, ...] | None:
    """Return the steps from one tensor of a network to another; None if a path to `end` bypasses `start`."""
    if start is end:
        return ()
    try:
        return (keras.Model(start, end),)
    except ValueError:
        return None
