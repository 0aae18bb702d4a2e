"""One trial: the recipe with suggested values, trained on the training split and measured on validation."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from histopipe.core.errors import ArchitectureError, TrainingError
from histopipe.core.params import Params, RecipeParams
from histopipe.core.workspace import Workspace
from histopipe.experiments.search.mlflow_run import close_failed, close_pruned, parent_run
from histopipe.experiments.search.ranges import Value, with_values
from histopipe.experiments.search.study import REASON, Search, next_trial, open_search, suggested
from histopipe.experiments.search.workspace import TrialWorkspace
from histopipe.training.checkpoint import Progress
from histopipe.training.stage import train

if TYPE_CHECKING:
    from optuna import Trial

METRIC = "validation/roc_auc"


class Pruned(Exception):
    """A trial is worse than most others were at its epoch.

    Attributes:
        run_id: id of its MLflow run.
    """

    def __init__(self, run_id: str | None) -> None:
        super().__init__(run_id)
        self.run_id = run_id


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        number: number of the trial.
        values: values that it trained with.
        text: the outcome in words.
    """

    number: int
    values: dict[str, Value]
    text: str


def run_trial(dataset: str, architecture: str, params: Params, workspace: Workspace) -> Outcome:
    """Resume a trial whose process is gone, or start a new one, and complete it.

    Values that the network can't be built or trained with fail the trial, not the search.

    Raises:
        HistopipeError: the ranges don't suit the recipe, or the data set isn't ingested and split.
    """
    search = open_search(dataset, architecture, params, workspace)
    parent = parent_run(search)
    with next_trial(search) as trial:
        own = TrialWorkspace(workspace.root, search.study.study_name, trial.number, parent)
        values = suggested(search, trial)
        _announce(search, trial, values)
        text = _train_trial(search, trial, values, own)
        shutil.rmtree(own.scratch(dataset, architecture), ignore_errors=True)
    return Outcome(trial.number, values, text)


def _announce(search: Search, trial: Trial, values: dict[str, Value]) -> None:
    shown = ", ".join(f"{key} {value}" for key, value in values.items())
    print(f"{search.dataset} {search.architecture} trial {trial.number}: {shown}", flush=True)


def _train_trial(search: Search, trial: Trial, values: dict[str, Value], own: TrialWorkspace) -> str:
    """Train the trial and report its end to the study; return the outcome in words."""
    from optuna.trial import TrialState

    dataset, name = search.dataset, search.architecture
    recipe = with_values(search.recipe, values)
    changed = search.params.model_copy(update={"recipes": {**search.params.recipes, name: recipe}})
    try:
        train(dataset, name, changed, own, after_epoch=lambda progress: _report(search, trial, progress))
    except Pruned as pruned:
        if pruned.run_id:
            close_pruned(pruned.run_id)
        search.study.tell(trial, state=TrialState.PRUNED)
        return "pruned"
    except (TrainingError, ArchitectureError) as problem:
        trial.set_user_attr(REASON, str(problem))
        close_failed(search, own.parent, trial.number, str(problem))
        search.study.tell(trial, state=TrialState.FAIL)
        return f"failed: {problem}"
    history = pd.read_csv(own.model(dataset, name) / "history.csv")[METRIC].tolist()
    _report_history(search, trial, history)
    result = result_metric(history, recipe)
    search.study.tell(trial, result)
    return f"{METRIC} {result:.4f}"


def result_metric(history: list[float], recipe: RecipeParams) -> float:
    """Return the validation AUC of the weights that the recipe keeps, from that of every epoch (or candidate)."""
    return max(history) if recipe.keep == "best" or recipe.classifier else history[-1]


def _report(search: Search, trial: Trial, progress: Progress) -> None:
    """Report epochs that the study doesn't know yet.

    Raises:
        Pruned: the trial isn't worth continuing.
    """
    _report_history(search, trial, [row[METRIC] for row in progress.history])
    if trial.should_prune():
        raise Pruned(progress.run_id)


def _report_history(search: Search, trial: Trial, history: list[float]) -> None:
    """Report the missing epochs: a kill can happen between a checkpoint and its report."""
    reported = search.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    for epoch, value in enumerate(history, start=1):
        if epoch not in reported:
            trial.report(value, epoch)
