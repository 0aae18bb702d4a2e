"""Tasks of a hyper-parameter search: one trial, and the summary of all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histopipe.core.workspace import Workspace, stage_name
from histopipe.experiments.search.winner import PICTURE_FILE, RECIPE_FILE, TRIALS_FILE
from tasks.artifacts import epoch_progress, publish_image, publish_markdown, publish_table, table_rows
from tasks.declaration import stage_task
from tasks.parallel import for_training
from tasks.processes import run_stage


@stage_task("trial", "trial-{dataset}-{architecture}-{side}", retries=2, delay=5, gpu=True)
def trial(dataset: str, architecture: str, side: int) -> None:
    """Run one trial; a retry resumes the trial from its last finished epoch.

    Args:
        dataset: name of the data set.
        architecture: name of the recipe.
        side: number of the trial within its flow; the study has its own numbers.
    """
    title = f"Epochs of a trial of {architecture} on {dataset}"
    show = epoch_progress(title, "trial", dataset, architecture, str(side))
    stage = stage_name("trial", dataset, architecture, str(side))
    with for_training() as environment:
        run_stage(stage, "trial", dataset, architecture, "--side", str(side), on_line=show, environment=environment)


@stage_task("conclude", "conclude-{dataset}-{architecture}")
def conclude(dataset: str, architecture: str, name: str | None) -> Path:
    """Write the best trial as a recipe; return the search's folder."""
    named = ["--name", name] if name else []
    run_stage(stage_name("search", dataset, architecture), "search", dataset, architecture, "--trials", "0", *named)
    folder = Workspace.find().search(dataset, architecture)
    title = f"Search of {architecture} on {dataset}"
    trials = pd.read_csv(folder / TRIALS_FILE)
    publish_table(table_rows(trials), title, "search", dataset, architecture)
    publish_image(folder / PICTURE_FILE, title, "search-plot", dataset, architecture)
    recipe = (folder / RECIPE_FILE).read_text(encoding="utf-8")
    publish_markdown(f"```yaml\n{recipe}```\n", f"{title}: the best", "search-recipe", dataset, architecture)
    return folder
