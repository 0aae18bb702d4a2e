"""The Optuna study behind a search: its storage, its name, and the choice of the next trial."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histopipe.core.errors import BusyError, SearchError, one_line
from histopipe.core.lineage import checkout_name, is_own_checkout
from histopipe.core.locking import exclusive_lock
from histopipe.core.params import Params, RecipeParams
from histopipe.core.workspace import Workspace, stage_name
from histopipe.experiments.search.ranges import Ranges, Value, distributions, own_values, rounded
from histopipe.networks.weights.record import weights_digest
from histopipe.training.checkpoint import training_key
from histopipe.training.plan import Training, plan_training
from histopipe.training.recipe import recipe_digest

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STORAGE_VARIABLE = "OPTUNA_STORAGE"
STARTUP_TRIALS = 5  # complete trials before any is pruned: Optuna's default
WARMUP_SHARE = 0.2  # of a training's epochs before it may be pruned: early epochs predict later ones poorly
ATTEMPTS = 3  # starts of a trial within one epoch; a trial killed by its own values would block the search for ever
LOCK_SECONDS = 2.0  # a process whose flow is gone ends within a quarter of that
CHECKOUT, STARTS, REASON = "checkout", "starts", "reason"  # attributes of a trial besides its values


@dataclass(frozen=True)
class Search:
    """A study and the settings that its trials share.

    Attributes:
        training: training of the recipe as it is; a trial's differs by its values.
        ranges: distribution of each value.
    """

    dataset: str
    architecture: str
    params: Params
    workspace: Workspace
    training: Training
    ranges: Mapping[str, BaseDistribution]
    study: Study

    @property
    def recipe(self) -> RecipeParams:
        """The recipe as it is, without the caps of `quick`."""
        return self.params.recipe(self.architecture)

    @property
    def searched(self) -> Ranges:
        """The ranges of the values in `params.yaml`."""
        return self.params.search[self.architecture]

    @property
    def title(self) -> str:
        """The name of the search in messages."""
        return f"search {self.architecture}"


def open_search(dataset: str, architecture: str, params: Params, workspace: Workspace) -> Search:
    """Open the study of a recipe's ranges on a data set, or create it with the recipe's own values as first trial.

    Raises:
        HistopipeError: the ranges don't suit the recipe, or the data set isn't ingested and split.
    """
    ranges = distributions(architecture, params.recipe(architecture), params.search.get(architecture, {}))
    training = plan_training(dataset, architecture, params, workspace)
    name = study_name(dataset, architecture, params, workspace)
    return Search(
        dataset, architecture, params, workspace, training, ranges, _study(name, training, params, ranges, workspace)
    )


def study_name(dataset: str, architecture: str, params: Params, workspace: Workspace) -> str:
    """Compute the study's name, which changes with patches, split, recipe, caps, ranges, code and packages.

    Results under different ones can't be compared.
    """
    recipe = params.recipe(architecture)
    digest = recipe_digest(params, architecture, weights_digest(architecture, params, workspace))
    decisive = [
        training_key(digest, workspace, dataset, recipe.architecture or architecture),
        {key: value_range.model_dump() for key, value_range in params.search.get(architecture, {}).items()},
    ]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return f"{dataset}-{architecture}-{digest[:12]}"


def storage_address(workspace: Workspace) -> str:
    """Return `OPTUNA_STORAGE`, else the address of a database file in the checkout."""
    return os.environ.get(STORAGE_VARIABLE) or f"sqlite:///{workspace.checkout / 'optuna.db'}"


def _study(
    name: str, training: Training, params: Params, ranges: Mapping[str, BaseDistribution], workspace: Workspace
) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warmup = round(WARMUP_SHARE * training.recipe.epochs)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=warmup)
    # processes that start together would race to create the tables and the study
    with study_lock(workspace), storage_errors_in_one_line(workspace):
        storage = optuna.storages.RDBStorage(storage_address(workspace), engine_kwargs=_connection_options(workspace))
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", pruner=pruner, load_if_exists=True
        )
        own = own_values(params.recipe(training.name))
        start = {key: own[key] for key, distribution in ranges.items() if _contains(distribution, own[key])}
        if not study.trials and len(start) == len(ranges):
            study.enqueue_trial(start)
    return study


@contextmanager
def storage_errors_in_one_line(workspace: Workspace) -> Iterator[None]:
    """Turn errors of a damaged or unreachable storage of studies into one line.

    Raises:
        SearchError: the storage can't be used.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as problem:
        cause = problem.__cause__ or problem
        storage = workspace.checkout / "optuna.db" if STORAGE_VARIABLE not in os.environ else f"${STORAGE_VARIABLE}"
        raise SearchError(
            f"{storage} can't be used ({one_line(cause, 120)}): restore it from a backup, "
            "or move it away to start a new search"
        ) from None


def _connection_options(workspace: Workspace) -> dict[str, Any]:
    """Let trials that run in parallel wait for one another when they write to one SQLite file."""
    return {"connect_args": {"timeout": 60}} if storage_address(workspace).startswith("sqlite") else {}


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


@contextmanager
def study_lock(workspace: Workspace) -> Iterator[None]:
    """Lock out other processes of the checkout that create a study, a search's run, or choose a trial."""
    with exclusive_lock(workspace.checkout_lock("optuna")):
        yield


def count_trials(search: Search) -> int:
    """Count the trials that ended with a metric, pruned ones too, without the failed ones."""
    from optuna.trial import TrialState

    return len(search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


@contextmanager
def next_trial(search: Search) -> Iterator[Trial]:
    """Yield the next trial, locked: one whose process is gone, else a new one with fresh values."""
    with study_lock(search.workspace):
        trial, lock = _abandoned(search) or _new(search)
    with lock:
        yield trial


def _abandoned(search: Search) -> tuple[Trial, ExitStack] | None:
    from optuna import Trial
    from optuna.trial import TrialState

    for unfinished in search.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if CHECKOUT in unfinished.user_attrs and not is_own_checkout(unfinished.user_attrs[CHECKOUT], search.workspace):
            continue  # another machine's, in a shared storage
        try:
            lock = _lock(search, unfinished.number, LOCK_SECONDS)
        except BusyError:
            continue  # its process is alive
        if _give_up_if_stuck(search, unfinished):
            lock.close()
            continue
        _seed_sampler(search, unfinished.number)
        trial = Trial(search.study, unfinished._trial_id)
        _begin(search, trial)
        return trial, lock
    return None


def _new(search: Search) -> tuple[Trial, ExitStack]:
    _seed_sampler(search, len(search.study.get_trials(deepcopy=False)))
    trial = search.study.ask()
    lock = _lock(search, trial.number)
    _begin(search, trial)
    return trial, lock


def _begin(search: Search, trial: Trial) -> None:
    """Record who runs the trial and each start with its last epoch; suggest the values that it lacks."""
    trial.set_user_attr(CHECKOUT, checkout_name(search.workspace))
    trial.set_user_attr(STARTS, [*_starts(trial.user_attrs), last_epoch(search, trial.number)])
    for key, distribution in search.ranges.items():
        trial._suggest(key, distribution)  # as `Study.ask(fixed_distributions)` does; existing values stay


def _give_up_if_stuck(search: Search, trial: FrozenTrial) -> bool:
    """End a trial that has been started several times without finishing another epoch; return whether it was."""
    from optuna.trial import TrialState

    if _starts(trial.user_attrs).count(trial.last_step or 0) < ATTEMPTS:
        return False
    search.study._storage.set_trial_user_attr(
        trial._trial_id, REASON, f"its process ended {ATTEMPTS} times without finishing an epoch"
    )
    search.study.tell(trial.number, state=TrialState.FAIL)
    return True


def _starts(attributes: Mapping[str, Any]) -> list[int]:
    return list(attributes.get(STARTS, []))


def last_epoch(search: Search, number: int) -> int:
    """Return the last epoch that a trial reported, 0 before any."""
    return search.study.get_trials(deepcopy=False)[number].last_step or 0


def suggested(search: Search, trial: Trial | FrozenTrial) -> dict[str, Value]:
    """Return the values that a trial trains with, in the order of the recipe's ranges."""
    values = {key: trial.params[key] for key in search.ranges if key in trial.params}
    return rounded(values, search.recipe, search.searched)


def _lock(search: Search, number: int, wait: float | None = None) -> ExitStack:
    """Take the lock of a trial, which lasts until the stack is closed.

    Raises:
        BusyError: another process holds it for longer than `wait` seconds.
    """
    name = stage_name("trial", search.study.study_name, "number", str(number))
    stack = ExitStack()
    stack.enter_context(exclusive_lock(search.workspace.checkout_lock(name), wait=wait))
    return stack


def _seed_sampler(search: Search, number: int) -> None:
    """Set a sampler whose draws depend on `seed` and the trial's number alone.

    Each trial has its own process: with one seed for all, every trial would draw the same numbers; with a stream that
    continues from trial to trial, a kill would change the later ones.
    """
    import optuna

    seed = int(np.random.SeedSequence([search.params.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # constant_liar: trials in parallel avoid one another's values
        search.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
