"""Tasks that train one recipe, and fetch the weights that it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histopipe.core.workspace import Workspace, stage_name
from tasks.artifacts import epoch_progress, publish_image
from tasks.declaration import stage_task
from tasks.distributed import is_distributed
from tasks.parallel import for_training
from tasks.reproduction import reproduce


@stage_task("weights", "weights-{architecture}", retries=2, delay=30)
def weights(architecture: str) -> Path:
    """Fetch the weights that a recipe's network starts from; return the folder."""
    reproduce(stage_name("weights", architecture))
    return Workspace.find().weights(architecture)


def start_weights(architecture: str) -> Any:
    """Start fetching a recipe's weights, in parallel to other tasks if on this machine; return a future or a state.

    Workers in other clones pull them from DVC's remote: an alias must mean the same version to all of them.
    """
    return weights(architecture, return_state=True) if is_distributed() else weights.submit(architecture)


@stage_task("train", "train-{dataset}-{architecture}", retries=2, delay=5, gpu=True)
def train(dataset: str, architecture: str) -> Path:
    """Train one recipe; a retry resumes from the last finished epoch. Return the model's folder."""
    show = epoch_progress(f"Epochs of {architecture} on {dataset}", "epochs", dataset, architecture)
    workspace = Workspace.find()
    with for_training() as environment:
        reproduce(stage_name("train", dataset, architecture), on_line=show, environment=environment)
    folder = workspace.model(dataset, architecture)
    publish_image(folder / "history.png", f"History of {architecture} on {dataset}", "history", dataset, architecture)
    return folder
