"""The weights that a network starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histopipe.networks.architectures import backbone_of
from histopipe.training.plan import Training

if TYPE_CHECKING:
    import keras


def load_start(training: Training, network: keras.Model) -> dict[str, str | int]:
    """Load the recipe's weights into a fresh network, or into a bare backbone.

    Returns:
        The entry of the training's record: the recipe's choice, the file and its origin, and the number of variables
        that came from it.

    Raises:
        WeightsError: the weights don't fit.
    """
    if training.weights is None:
        return {"asked": training.recipe.weights}
    from histopipe.networks.weights.loading import load_into

    assert training.weights.file is not None
    backbone = backbone_of(training.architecture, training.recipe.model)
    title = f"recipes.{training.name}.weights: {training.weights.choice}"
    loaded = load_into(network, training.weights_folder / training.weights.file, backbone, title)
    print(
        f"{training.title}: {loaded.taken} of {loaded.variables} variables from {training.weights.choice}", flush=True
    )
    return {**training.weights.summary, **loaded._asdict()}
