"""One trial: the recipe with suggested values, trained on the training split and scored on validation."""

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

SCORE = "validation/roc_auc"


class Pruned(Exception):
    """A trial that is worse than most were at its epoch.

    Attributes:
        run_id: its MLflow run.
    """

    def __init__(self, run_id: str | None) -> None:
        super().__init__(run_id)
        self.run_id = run_id


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: of the trial.
        values: what it trained with.
        said: for people.
    """

    number: int
    values: dict[str, Value]
    said: str


def run_trial(dataset: str, architecture: str, params: Params, workspace: Workspace) -> Outcome:
    """Take up a trial whose process is gone, or a new one, and bring it to its end.

    Values that the network can't be built or trained with make a failed trial, not a failed search.

    Raises:
        HistopipeError: the ranges don't suit the recipe, or the data set isn't ingested and split.
    """
    search = open_search(dataset, architecture, params, workspace)
    parent = parent_run(search)
    with next_trial(search) as trial:
        own = TrialWorkspace(workspace.root, search.study.study_name, trial.number, parent)
        values = suggested(search, trial)
        _announce(search, trial, values)
        said = _trained(search, trial, values, own)
        shutil.rmtree(own.scratch(dataset, architecture), ignore_errors=True)
    return Outcome(trial.number, values, said)


def _announce(search: Search, trial: Trial, values: dict[str, Value]) -> None:
    shown = ", ".join(f"{key} {value}" for key, value in values.items())
    print(f"{search.dataset} {search.architecture} trial {trial.number}: {shown}", flush=True)


def _trained(search: Search, trial: Trial, values: dict[str, Value], own: TrialWorkspace) -> str:
    """Train the trial and tell the study how it ended; returns that in words."""
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
    scores = pd.read_csv(own.model(dataset, name) / "history.csv")[SCORE].tolist()
    _report_scores(search, trial, scores)
    reached = score(scores, recipe)
    search.study.tell(trial, reached)
    return f"{SCORE} {reached:.4f}"


def score(scores: list[float], recipe: RecipeParams) -> float:
    """Validation AUC of the weights that the recipe keeps, from that of every epoch (or candidate classifier)."""
    return max(scores) if recipe.keep == "best" or recipe.classifier else scores[-1]


def _report(search: Search, trial: Trial, progress: Progress) -> None:
    """Tell the study of epochs it doesn't know yet.

    Raises:
        Pruned: the trial is not worth going on with.
    """
    _report_scores(search, trial, [row[SCORE] for row in progress.history])
    if trial.should_prune():
        raise Pruned(progress.run_id)


def _report_scores(search: Search, trial: Trial, scores: list[float]) -> None:
    """A kill can come between a checkpoint and its report."""
    known = search.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    for epoch, value in enumerate(scores, start=1):
        if epoch not in known:
            trial.report(value, epoch)
