"""The search stage: run the missing trials one after the other, each in its own process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

from histopipe.core.errors import BusyError, SearchError
from histopipe.core.params import Params
from histopipe.core.stages.running import EXIT_BAD_INPUT, EXIT_BUSY, PARENT_VARIABLE
from histopipe.core.workspace import Workspace
from histopipe.experiments.search.study import ATTEMPTS, count_trials, open_search
from histopipe.experiments.search.winner import Winner, conclude

LOG = logging.getLogger(__name__)
ROUNDS = 2  # the second replaces trials that failed in the first; a limit, since all values may fail


def missing_trials(dataset: str, architecture: str, count: int, params: Params, workspace: Workspace) -> int:
    """Count the trials that a study still lacks; failed and unfinished ones don't count.

    Raises:
        HistopipeError: the ranges don't suit the recipe, or the data set isn't ingested and split.
    """
    return max(0, count - count_trials(open_search(dataset, architecture, params, workspace)))


def search(
    dataset: str, architecture: str, count: int, name: str | None, params: Params, workspace: Workspace
) -> Winner:
    """Run the trials that a study lacks and write the best as a recipe.

    Args:
        dataset: name of the data set.
        architecture: name of the recipe.
        count: number of trials that the study should have; 0 only writes the results of those there are.
        name: name of the recipe that the best trial becomes; `A_tuned` by default.
        params: parameters with recipe and ranges.
        workspace: workspace to read from and write to.

    Raises:
        SearchError: a trial refused its input, or no trial was completed.
    """
    for _ in range(ROUNDS * missing_trials(dataset, architecture, count, params, workspace)):
        _run_trial(dataset, architecture, workspace)
        if not missing_trials(dataset, architecture, count, params, workspace):
            break
    winner = conclude(open_search(dataset, architecture, params, workspace), name)
    if warning := shortfall(dataset, architecture, count, params, workspace):
        LOG.warning(warning)
    return winner


def shortfall(dataset: str, architecture: str, count: int, params: Params, workspace: Workspace) -> str:
    """Describe how many trials a study still lacks; empty where it has them all."""
    missing = missing_trials(dataset, architecture, count, params, workspace)
    if not missing:
        return ""
    remedy = f"run the search again, or narrow search.{architecture}"
    return f"{dataset} {architecture}: {missing} of {count} trials are missing, since others failed: {remedy}"


def _run_trial(dataset: str, architecture: str, workspace: Workspace) -> None:
    """Run one trial in its own process, which frees its memory; restart it if it is killed."""
    command = [sys.executable, "-m", "histopipe", "trial", dataset, architecture]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    for _ in range(ATTEMPTS):
        code = subprocess.run(command, cwd=workspace.root, env=environment, check=False).returncode
        if code == 0:
            return
        if code == EXIT_BUSY:
            raise BusyError(f"a trial of {dataset} {architecture} runs in another process: wait for it to end")
        if code in (1, EXIT_BAD_INPUT):  # would fail again
            break
    raise SearchError(f"{dataset} {architecture}: a trial broke off, see above; run again to resume it")
