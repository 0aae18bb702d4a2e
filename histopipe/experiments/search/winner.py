"""The results of a search: its best trial as a recipe to commit, all trials as a table, and a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml

from histopipe.core.errors import SearchError
from histopipe.core.files import replaced_folder, write_text
from histopipe.core.params import RecipeParams
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.evaluation.figures import save_figure
from histopipe.experiments.search.figure import draw_search
from histopipe.experiments.search.mlflow_run import log_result, parent_run, trial_runs
from histopipe.experiments.search.ranges import Value, own_values, with_values
from histopipe.experiments.search.study import REASON, Search, suggested

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RECIPE_FILE, TRIALS_FILE, PICTURE_FILE = "recipe.yaml", "trials.csv", "search.png"
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished", "WAITING": "waiting"}
IMPORTANCE_TRIALS = 4  # complete trials; a forest on fewer is meaningless
COMMENT_WIDTH = 110


@dataclass(frozen=True)
class Winner:
    """The best trial of a search.

    Attributes:
        name: name of the recipe it becomes.
        recipe: recipe that it trained, without the caps of `quick`.
        values: its values, by dotted key.
        number: number of the trial.
        value: its ROC AUC on validation.
        run_id: id of its MLflow run.
    """

    name: str
    recipe: RecipeParams
    values: Mapping[str, Value]
    number: int
    value: float
    run_id: str


def conclude(search: Search, name: str | None = None) -> Winner:
    """Write `recipe.yaml`, `trials.csv` and `search.png` of the study so far, and log them to its run.

    Args:
        search: search with its study.
        name: name of the recipe that the best trial becomes; `A_tuned` for recipe A by default.

    Raises:
        SearchError: no trial was completed.
    """
    parent = parent_run(search)
    runs = trial_runs(search, parent)
    winner = _winner(search, name or f"{search.architecture}_tuned", runs)
    trials = trial_table(search, runs)
    folder = search.workspace.search(search.dataset, search.architecture)
    with replaced_folder(folder, stage_check("search")) as target:
        write_text(target / RECIPE_FILE, recipe_block(search, winner, trials))
        trials.to_csv(target / TRIALS_FILE, index=False)
        title = f"{search.dataset} {search.architecture}: {_counts(trials)}"
        save_figure(draw_search(trials, _importances(search), title), target / PICTURE_FILE)
        require_unchanged_inputs()
    best = {"trial": winner.number, "run_id": winner.run_id, **winner.values}
    metrics = {"best/validation/roc_auc": winner.value, **_numbers(trials)}
    log_result(parent, best, metrics, folder)
    return winner


def _winner(search: Search, name: str, runs: Mapping[int, str]) -> Winner:
    try:
        best = search.study.best_trial
    except ValueError:
        raise SearchError(_describe_no_winner(search)) from None
    assert best.value is not None  # it is complete
    values = suggested(search, best)
    recipe = with_values(search.recipe, values).model_copy(update={"architecture": search.training.architecture})
    return Winner(name, recipe, values, best.number, best.value, runs.get(best.number, ""))


def _describe_no_winner(search: Search) -> str:
    reasons = [trial.user_attrs[REASON] for trial in search.study.trials if REASON in trial.user_attrs]
    last_failure = f"; the last that failed: {reasons[-1]}" if reasons else ""
    title = f"{search.dataset} {search.architecture}"
    return f"{title}: no trial was completed: run more, or change search.{search.architecture}{last_failure}"


def trial_table(search: Search, runs: Mapping[int, str]) -> pd.DataFrame:
    """Tabulate the trials: state, metric, epochs, values and MLflow run of each."""
    trials = search.study.get_trials(deepcopy=False)
    return pd.DataFrame([_row(search, trial, runs) for trial in trials if trial.state.name != "WAITING"])


def _row(search: Search, trial: FrozenTrial, runs: Mapping[int, str]) -> dict[str, object]:
    return {
        "trial": trial.number,
        "state": STATES[trial.state.name],
        "validation_roc_auc": trial.value if trial.value is not None else float("nan"),
        "epochs": trial.last_step or 0,
        **suggested(search, trial),
        "run_id": runs.get(trial.number, ""),
        "reason": trial.user_attrs.get(REASON, ""),
    }


def _numbers(trials: pd.DataFrame) -> dict[str, int]:
    return {f"trials/{state}": int((trials["state"] == state).sum()) for state in ("complete", "pruned", "failed")}


def _counts(trials: pd.DataFrame) -> str:
    numbers = ", ".join(f"{count} {name.removeprefix('trials/')}" for name, count in _numbers(trials).items() if count)
    return f"{len(trials)} trials ({numbers})"


def _importances(search: Search) -> dict[str, float]:
    """Compute the share of the variance that each value explains; empty where too few trials are complete."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < IMPORTANCE_TRIALS or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = FanovaImportanceEvaluator(seed=search.params.seed)
    return {name: float(share) for name, share in get_param_importances(search.study, evaluator=evaluator).items()}


def recipe_block(search: Search, winner: Winner, trials: pd.DataFrame) -> str:
    """Format the winner as a `recipes:` block, with a comment on how it was found."""
    content = winner.recipe.model_dump(mode="json", exclude_defaults=True)
    body = yaml.safe_dump({winner.name: content}, sort_keys=False, allow_unicode=True, width=COMMENT_WIDTH)
    lines = [f"# {line}" for part in _comment(search, winner, trials) for line in textwrap.wrap(part, COMMENT_WIDTH)]
    return "recipes:\n" + textwrap.indent("\n".join(lines) + "\n" + body, "  ")


def _comment(search: Search, winner: Winner, trials: pd.DataFrame) -> list[str]:
    values = ", ".join(f"{key} {value}" for key, value in winner.values.items())
    caps = search.params.quick.model_dump(exclude_none=True) if search.params.quick and search.training.capped else {}
    own = own_values(search.recipe)
    origin = (
        "its own values, since no others were better"
        if all(own[key] == value for key, value in winner.values.items())
        else "values found"
    )
    paragraphs = [
        f"{search.architecture} with {origin} by search on {search.dataset}: {values}.",
        f"Trial {winner.number} of {_counts(trials)}: ROC AUC {winner.value:.4f} on validation, which chose it, so "
        "further cases will give less; test cases were not looked at.",
        f"Study {search.study.study_name}, MLflow run {winner.run_id}, seed {search.params.seed}.",
    ]
    if caps:
        paragraphs.append(
            "Searched under the caps of `quick`: " + ", ".join(f"{key} {cap}" for key, cap in caps.items())
        )
    return paragraphs


def paste_hint(winner: Winner, folder: Path) -> str:
    """Describe how to use a winner."""
    return (
        f"best: trial {winner.number}, validation/roc_auc {winner.value:.4f}; to use it, paste {winner.name} from "
        f"{folder / RECIPE_FILE} under `recipes:` in params.yaml and add it to `architectures:`"
    )
