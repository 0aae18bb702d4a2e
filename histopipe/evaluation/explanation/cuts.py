"""A network taken apart at one of its layers: what leads to that layer's maps, and what the logit makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from histopipe.core.errors import EvaluationError
from histopipe.networks.architectures.blocks import OUTPUT_LAYER
from histopipe.networks.symmetry import ONE_VIEW, is_averaged

# Places along a side: a histonet of 30 epochs on real patches gained .033 on chance with maps of 3 x 3 places, .046
# with 6 x 6 and no more with 12 x 12 or 24 x 24 (by the test patches of one split).
LEAST_SIDE = 4

Step = Callable[[Any], Any]
Shape = tuple[int, int, int]
Wanted = Callable[[str, Shape], bool]


@dataclass(frozen=True)
class Cut:
    """Two parts of a network that sees one orientation.

    Attributes:
        layer: name of the layer behind which it is cut.
        shape: height, width and channels of that layer's maps.
        front: from raw patches (batch, height, width, 3) to the maps (batch, *shape), step by step.
        back: from the maps to the logit (batch, 1), step by step.
    """

    layer: str
    shape: Shape
    front: tuple[Step, ...]
    back: tuple[Step, ...]


def cut_network(network: keras.Model, layer: str | None = None) -> Cut:
    """Cut `network` behind a layer that every path to the logit runs through; weights are shared.

    Args:
        network: as trained, calibrated or averaged over symmetries; of an averaged one, what sees one orientation.
        layer: its name, also inside a backbone. Without one, the last layer whose maps have `LEAST_SIDE` places or more
            along each side; where none has so many, the last one with more than one.

    Raises:
        EvaluationError: there is no such layer.
    """
    if layer is not None:
        choices = _cuts(network, lambda name, shape: name == layer)
    else:
        choices = (cut for side in (LEAST_SIDE, 2) for cut in _cuts(network, _keeps_apart(side)))
    found = next(choices, None)
    if found is None:
        raise EvaluationError(
            f"the network can't be explained by {f'its layer {layer!r}' if layer else 'any of its layers'}: "
            "a layer is needed that keeps places apart and that every path runs through"
        )
    return found


def _keeps_apart(side: int) -> Wanted:
    return lambda name, shape: min(shape[:2]) >= side


def _cuts(network: keras.Model, wanted: Wanted) -> Iterator[Cut]:
    """Possible cuts, the last layer's first."""
    output = network.get_layer(OUTPUT_LAYER)
    if is_averaged(network):
        inner = network.get_layer(ONE_VIEW)
        return _cuts_within(inner, inner.outputs[0], wanted, (), (output,))
    return _cuts_within(network, output.output, wanted, (), ())


def _cuts_within(
    model: keras.Model, end: keras.KerasTensor, wanted: Wanted, front: tuple[Step, ...], back: tuple[Step, ...]
) -> Iterator[Cut]:
    """Cuts of `model`, between the steps that come before it and those behind its tensor `end`; networks nest."""
    for layer in reversed(model.layers):
        start, found = _around(layer)
        shape = tuple(getattr(found, "shape", ()))[1:]
        maps = len(shape) == 3 and all(shape) and wanted(layer.name, shape)
        nested = isinstance(layer, keras.Model)
        rest = _between(found, end) if maps or nested else None
        if rest is None:
            continue
        if maps:
            yield Cut(layer.name, shape, (*front, keras.Model(model.inputs[0], found)), (*rest, *back))
        if nested:
            before = (*front, keras.Model(model.inputs[0], start))
            yield from _cuts_within(layer, layer.outputs[0], wanted, before, (*rest, *back))


def _around(layer: keras.Layer) -> tuple[Any, Any]:
    """What goes into a layer and what comes out where it was first called; a network's own say what is inside it."""
    if isinstance(layer, keras.layers.InputLayer):
        return None, layer.output
    return keras.Operation.input.fget(layer), keras.Operation.output.fget(layer)


def _between(start: keras.KerasTensor, end: keras.KerasTensor) -> tuple[Step, ...] | None:
    """What leads from one tensor of a network to another; None where a path to `end` runs past `start`."""
    if start is end:
        return ()
    try:
        return (keras.Model(start, end),)
    except ValueError:
        return None
