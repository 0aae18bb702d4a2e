"""A whole search, one trial after the other, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from histopipe.errors import BusyError, SearchError
from histopipe.params import Params
from histopipe.paths import Workspace
from histopipe.search.study import counted, open_search
from histopipe.search.winner import Winner, conclude
from histopipe.search.workspace import study_scratch
from histopipe.stages import EXIT_BAD_INPUT, EXIT_BUSY, PARENT_VARIABLE


def missing_trials(dataset: str, architecture: str, wanted: int, params: Params, workspace: Workspace) -> int:
    """How many of `wanted` trials a study still lacks; failed and unfinished ones don't count.

    Raises:
        HistopipeError: the ranges don't suit the recipe, or the data set isn't ingested and split.
    """
    return max(0, wanted - counted(open_search(dataset, architecture, params, workspace)))


def search(
    dataset: str, architecture: str, wanted: int, name: str | None, params: Params, workspace: Workspace
) -> Winner:
    """Run the trials that a study lacks and write the best as a recipe.

    Args:
        dataset: the data set's name.
        architecture: the recipe's name.
        wanted: trials of the study in the end; 0 sums up those there are.
        name: of the recipe that the best trial becomes; `A_tuned` by default.
        params: hold recipe and ranges.
        workspace: where to read and write.

    Raises:
        SearchError: a trial refused its input, or none was trained to its end.
    """
    for _ in range(missing_trials(dataset, architecture, wanted, params, workspace)):
        _run_trial(dataset, architecture, workspace)
    found = open_search(dataset, architecture, params, workspace)
    winner = conclude(found, name)
    if wanted and counted(found) >= wanted:
        shutil.rmtree(study_scratch(workspace, found.study.study_name, dataset, architecture), ignore_errors=True)
    return winner


def _run_trial(dataset: str, architecture: str, workspace: Workspace) -> None:
    """One trial in a process of its own, which gives its memory back; started again if it dies."""
    command = [sys.executable, "-m", "histopipe", "trial", dataset, architecture]
    while True:
        done = subprocess.run(
            command, cwd=workspace.root, env={**os.environ, PARENT_VARIABLE: str(os.getpid())}, check=False
        )
        if done.returncode == 0:
            return
        if done.returncode == EXIT_BAD_INPUT:
            raise SearchError(f"{dataset} {architecture}: a trial refused its input, see above")
        if done.returncode == EXIT_BUSY:
            raise BusyError(f"trials of {dataset} {architecture} run in another process: wait for them to end")
        if done.returncode == 1:  # an error of ours, with its traceback above
            raise SearchError(f"{dataset} {architecture}: a trial broke, see above; run again to go on with it")
