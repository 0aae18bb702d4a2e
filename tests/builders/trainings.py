"""A short training of a small network, the same however it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pandas as pd

from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.training.checkpoint import Progress, load_progress
from histopipe.training.loop import run_epochs
from histopipe.training.plan import plan_training

MODEL = {"depth": 10, "width": 1, "image_size": 32}
SGD = {"name": "sgd", "learning_rate": 0.01, "options": {"momentum": 0.9}}
ADAMW = {"name": "adamw", "learning_rate": 0.001, "options": {"weight_decay": 0.01}}
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": SGD},
    "adamw": {"optimizer": ADAMW},
    "averaged": {"optimizer": SGD, "keep": "average", "average_momentum": 0.8, "imbalance": "class_weight"},
}


def small(content: dict[str, Any], recipe: str = "sgd", **execution: Any) -> Params:
    """Return parameters of a short training with batch norms and without dropout, whose patches aren't augmented."""
    content["quick"] = None
    content["recipes"]["wide_resnet"] = {"model": MODEL, "epochs": 3, "batch_size": 16} | RECIPES[recipe]
    content["train"] |= execution
    return parse_params(content)


def run(
    workspace: Workspace, params: Params, after_epoch: Callable[[Progress], None] = lambda _: None
) -> tuple[keras.Model, pd.DataFrame]:
    """Train from the last checkpoint on; return the network and its history."""
    training = plan_training("idc", "wide_resnet", params, workspace)
    progress = load_progress(training.checkpoints, "the same training")
    keras.utils.set_random_seed(training.seed)
    network = run_epochs(training, progress, after_epoch)
    return network, pd.DataFrame(progress.history)
