"""What a network starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histopipe.networks.architectures import backbone_of
from histopipe.training.plan import Training

if TYPE_CHECKING:
    import keras


def load_start(training: Training, network: keras.Model) -> dict[str, str | int]:
    """Load the weights that the recipe asks for into a fresh network, or into a bare backbone.

    Returns:
        What the training's record says of it: what was asked for, the file and its origin, and how many of the
            variables came from it.

    Raises:
        WeightsError: they don't fit.
    """
    if training.weights is None:
        return {"asked": training.recipe.weights}
    from histopipe.networks.weights.loading import load_into

    assert training.weights.file is not None
    backbone = backbone_of(training.architecture, training.recipe.model)
    said = f"recipes.{training.name}.weights: {training.weights.asked}"
    taken = load_into(network, training.weights_folder / training.weights.file, backbone, said)
    print(f"{training.title}: {taken.taken} of {taken.variables} variables from {training.weights.asked}", flush=True)
    return {**training.weights.summary, **taken._asdict()}
