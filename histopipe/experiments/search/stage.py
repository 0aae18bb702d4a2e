"""A whole search, one trial after the other, each in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

from histopipe.core.errors import BusyError, SearchError
from histopipe.core.params import Params
from histopipe.core.stages.running import EXIT_BAD_INPUT, EXIT_BUSY, PARENT_VARIABLE
from histopipe.core.workspace import Workspace
from histopipe.experiments.search.study import ATTEMPTS, counted, open_search
from histopipe.experiments.search.winner import Winner, conclude

LOG = logging.getLogger(__name__)
ROUNDS = 2  # the second makes up for the trials that failed in the first; values that all fail must not run for ever


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
    for _ in range(ROUNDS * missing_trials(dataset, architecture, wanted, params, workspace)):
        _run_trial(dataset, architecture, workspace)
        if not missing_trials(dataset, architecture, wanted, params, workspace):
            break
    winner = conclude(open_search(dataset, architecture, params, workspace), name)
    if said := shortfall(dataset, architecture, wanted, params, workspace):
        LOG.warning(said)
    return winner


def shortfall(dataset: str, architecture: str, wanted: int, params: Params, workspace: Workspace) -> str:
    """What to say where a study still lacks some of `wanted` trials; nothing where it has them."""
    lacking = missing_trials(dataset, architecture, wanted, params, workspace)
    if not lacking:
        return ""
    remedy = f"run the search again, or narrow search.{architecture}"
    return f"{dataset} {architecture}: {lacking} of {wanted} trials are lacking, since others failed: {remedy}"


def _run_trial(dataset: str, architecture: str, workspace: Workspace) -> None:
    """One trial in a process of its own, which gives its memory back; started again if it is killed."""
    command = [sys.executable, "-m", "histopipe", "trial", dataset, architecture]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    for _ in range(ATTEMPTS):
        code = subprocess.run(command, cwd=workspace.root, env=environment, check=False).returncode
        if code == 0:
            return
        if code == EXIT_BUSY:
            raise BusyError(f"a trial of {dataset} {architecture} runs in another process: wait for it to end")
        if code in (1, EXIT_BAD_INPUT):  # would be the same again
            break
    raise SearchError(f"{dataset} {architecture}: a trial broke, see above; run again to go on with it")
