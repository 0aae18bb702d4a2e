"""Variants of the main run, and what they give together."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from histopipe.core.workspace import Workspace, stage_name
from tasks.artifacts import epoch_progress, publish_image, publish_markdown
from tasks.parallel import for_training
from tasks.reproduction import JITTER, reproduce, worth_retrying
from tasks.workers import GPU_TAG


@task(
    name="variant",
    task_run_name="{stage}-{dataset}-{architecture}-{name}",
    retries=2,
    retry_delay_seconds=5,
    retry_jitter_factor=JITTER,
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    tags=[GPU_TAG],
)
def variant(stage: str, dataset: str, architecture: str, name: int | str) -> Path:
    """Train and evaluate one variant; a retry goes on from the last finished epoch. Returns its folder.

    Args:
        stage: `fold`, `seed`, `scheme` or `size`.
        dataset: the data set's name.
        architecture: the recipe's name.
        name: the fold, seed, scheme or number of training cases.
    """
    title = f"Epochs of {architecture} {stage} {name} on {dataset}"
    show = epoch_progress(title, "epochs", stage, dataset, architecture, str(name))
    workspace = Workspace.around()
    with for_training() as environment:
        reproduce(stage_name(stage, dataset, architecture, str(name)), on_line=show, environment=environment)
    return workspace.variant_folder(f"{stage}s", dataset, architecture, str(name))


@task(
    name="study",
    task_run_name="study-{dataset}-{name}",
    retries=1,
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
)
def study(dataset: str, name: str) -> Path:
    """Sum up the variants of a study on a data set; returns the summary's folder."""
    reproduce(stage_name("study", dataset, name))
    folder = Workspace.around().study_summary(name, dataset)
    title = f"Architectures on {dataset}, by {name}"
    publish_markdown((folder / "summary.md").read_text(encoding="utf-8"), title, "study", dataset, name)
    publish_image(folder / "summary.png", title, "study-plot", dataset, name)
    return folder
