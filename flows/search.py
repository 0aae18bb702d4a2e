"""Search the hyper-parameters of one recipe on one data set that is ingested and split.

Run it with `python -m flows.search idc cancernet --trials 20`; if it is killed, the same command resumes it. See
docs/search.md.
"""

from __future__ import annotations

from typing import Any

import click
from prefect import allow_failure, flow
from prefect.futures import wait
from prefect.logging import get_run_logger

from flows.choices import AnyDataset, AnyRecipe
from flows.command import one_line_errors
from histopipe.core.params import Params, read_params, require_name
from histopipe.core.workspace import Workspace
from histopipe.experiments.search.stage import ROUNDS, missing_trials, shortfall
from tasks.parallel import LocalParallelRunner
from tasks.search import conclude, trial


@flow(name="search", task_runner=LocalParallelRunner())  # type: ignore[arg-type]
def search(dataset: AnyDataset, architecture: AnyRecipe, trials: int = 20, name: str = "") -> None:
    """Run the trials that the study lacks, `train.parallel` of them at a time; write the best as a recipe.

    Args:
        dataset: The data set to search on; it must be ingested and split.
        architecture: The recipe whose ranges are searched (its key search in params.yaml).
        trials: The number of trials in the study; those of earlier runs count, failed ones don't.
        name: The name of the recipe that the best trial becomes; the recipe's own with _tuned by default.
    """
    runs: list[Any] = []
    for _ in range(ROUNDS):
        sides = range(len(runs), len(runs) + count_missing(dataset, architecture, trials))
        runs += [trial.submit(dataset, architecture, side) for side in sides]
        wait(runs)
        if any(not run.state.is_completed() for run in runs):
            break
    conclude(dataset, architecture, name or None, wait_for=[allow_failure(run) for run in runs])
    for run in runs:
        run.result()  # a failed trial fails the flow, after the others were summarised
    if warning := shortfall(dataset, architecture, trials, *_checkout()):
        get_run_logger().warning(warning)


def count_missing(dataset: str, architecture: str, trials: int) -> int:
    """Count the trials that the study lacks.

    Raises:
        HistopipeError: the recipe can't be searched on the data set.
    """
    params, workspace = _checkout()
    params.dataset(dataset)
    return missing_trials(dataset, architecture, trials, params, workspace)


def _checkout() -> tuple[Params, Workspace]:
    workspace = Workspace.find()
    return read_params(workspace.params), workspace


@click.command()
@click.argument("dataset")
@click.argument("architecture")
@click.option(
    "--trials", default=20, show_default=True, type=click.IntRange(min=1), help="Number of trials in the study."
)
@click.option("--name", default="", help="Name of the best trial's recipe; A_tuned by default.")
def main(dataset: str, architecture: str, trials: int, name: str) -> None:
    """Run a search as a Prefect flow."""
    with one_line_errors():
        for kind, value in (("data set", dataset), ("architecture", architecture), ("recipe", name)):
            if value:
                require_name(kind, value)
        count_missing(dataset, architecture, trials)
        search(dataset, architecture, trials, name)


if __name__ == "__main__":
    main()
