"""Tasks for variants of the main run, and their summary."""

from __future__ import annotations

from pathlib import Path

from histopipe.core.workspace import Workspace, stage_name
from tasks.artifacts import epoch_progress, publish_image, publish_markdown
from tasks.declaration import stage_task
from tasks.parallel import for_prediction, for_training
from tasks.reproduction import reproduce


@stage_task("split-variant", "split_variant-{dataset}-{architecture}-{variant}")
def split_variant(dataset: str, architecture: str, variant: str) -> None:
    """Divide the cases for a variant."""
    reproduce(stage_name("split_variant", dataset, architecture, variant))


@stage_task("train-variant", "train_variant-{dataset}-{architecture}-{variant}", retries=2, delay=5, gpu=True)
def train_variant(dataset: str, architecture: str, variant: str) -> Path:
    """Train one variant, such as `fold-0`; a retry resumes from the last finished epoch. Return its folder."""
    title = f"Epochs of {architecture} {variant} on {dataset}"
    show = epoch_progress(title, "epochs", dataset, architecture, variant)
    workspace = Workspace.find()
    with for_training() as environment:
        reproduce(stage_name("train_variant", dataset, architecture, variant), on_line=show, environment=environment)
    return workspace.variant_folder(dataset, architecture, variant)


@stage_task("evaluate-variant", "evaluate_variant-{dataset}-{architecture}-{variant}")
def evaluate_variant(dataset: str, architecture: str, variant: str) -> Path:
    """Evaluate one variant; return its folder."""
    with for_prediction() as environment:
        reproduce(stage_name("evaluate_variant", dataset, architecture, variant), environment=environment)
    return Workspace.find().variant_folder(dataset, architecture, variant)


@stage_task("study", "study-{dataset}-{name}")
def study(dataset: str, name: str) -> Path:
    """Summarise the variants of a study on a data set; return the summary's folder."""
    reproduce(stage_name("study", dataset, name))
    folder = Workspace.find().study_summary(name, dataset)
    title = f"Architectures on {dataset}, by {name}"
    publish_markdown((folder / "summary.md").read_text(encoding="utf-8"), title, "study", dataset, name)
    publish_image(folder / "summary.png", title, "study-plot", dataset, name)
    return folder
