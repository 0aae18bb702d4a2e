"""Files of the checkout that runs left: checkpoints nobody goes on with, and what kills left half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from histopipe.core.errors import BusyError, HistopipeError
from histopipe.core.files import is_abandoned, parse_temporary_name, read_json
from histopipe.core.lineage import output_hash
from histopipe.core.locking import exclusive_lock
from histopipe.core.outputs.claims import find_foreign_file, remove_own_folder
from histopipe.core.params import Params, read_params
from histopipe.core.stages.folders import FILES
from histopipe.core.variants import KINDS, parse_variant
from histopipe.core.workspace import Workspace
from histopipe.experiments.search.study import study_name
from histopipe.experiments.search.workspace import TrialWorkspace
from histopipe.experiments.studies.definition import variant_params
from histopipe.experiments.studies.workspace import VariantWorkspace
from histopipe.ingest.parts import FILES as PART_FILES
from histopipe.ingest.sources.download import FILES as DOWNLOADED
from histopipe.operations.gc.history import git
from histopipe.operations.gc.leftover import Age, Leftover, room
from histopipe.training.checkpoint import CHECKPOINT_FILE, FINISHED_FILE, training_key
from histopipe.training.plan import plan_training
from histopipe.training.recipe import recipe_digest

WRITTEN = ("data", "drift", "evaluations", "exports", "models", "reports", "scores", "searches", "studies")
CHECKPOINT_FILES = (
    *("checkpoint.npz", "finished.json", "*/*/*.npz"),  # features of a frozen network among them
    *(f"model/{name}" for name in FILES["train"]),  # of a variant or a trial
    *(f"evaluation/{name}" for name in FILES["evaluate"]),
)
HIDDEN = (".checkpoints", ".digests", ".downloads", ".failures", ".used-sources")
SEARCHES, STUDIES = "searches", "studies"  # beside the data sets' folders


def resumable_runs(workspace: Workspace) -> frozenset[str]:
    """Ids of the MLflow runs with which the checkpoints go on."""
    found = (_progress(path).get("run_id") for path in _checkpoints(workspace).rglob(CHECKPOINT_FILE))
    return frozenset(str(run_id) for run_id in found if run_id)


def _checkpoints(workspace: Workspace) -> Path:
    return workspace.home / ".checkpoints"


def _progress(path: Path) -> dict[str, object]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(json.loads(arrays["progress"].tobytes()))
    except Exception:  # half a file, or another program's
        return {}


def outdated_checkpoints(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """Checkpoints of trainings that DVC has the result of, and of those that couldn't go on with them."""
    places = sorted({path.parent for name in (CHECKPOINT_FILE, FINISHED_FILE) for path in _files(workspace, name)})
    finished = [place for place in places if _is_recorded(place, workspace)]
    if finished:
        why = "dvc.lock has the trainings' results: trained again, they start anew"
        yield _checkpoint_line(why, finished, workspace, partial(_is_recorded, workspace=workspace))
    waiting = [place for place in places if place not in finished and not _is_current(place, workspace)]
    outdated = [place for place in waiting if age.passed(place)]
    if outdated:
        why = f"unfinished, of other parameters, data or code than today's, untouched for {age.written}"
        yield _checkpoint_line(why, outdated, workspace, age.passed)
    if young := [place for place in waiting if place not in outdated]:
        why = f"unfinished, of other parameters, data or code than today's, but younger than {age.written}"
        yield Leftover("checkpoints", why, len(young), room(young), state="kept")


def _files(workspace: Workspace, name: str) -> Iterator[Path]:
    return _checkpoints(workspace).rglob(name)


def _checkpoint_line(why: str, places: Sequence[Path], workspace: Workspace, still: Callable[[Path], bool]) -> Leftover:
    removal = partial(_remove_checkpoints, places, workspace, still)
    return Leftover("checkpoints", why, len(places), room(places), removal)


def _remove_checkpoints(places: Iterable[Path], workspace: Workspace, still: Callable[[Path], bool]) -> None:
    """Each under its stage's own lock; whose training has started since stays."""
    for place in places:
        path = workspace.lock(_owner(place, workspace)[1])
        with suppress(BusyError), exclusive_lock(path, wait=0):
            if not still(place):
                continue
            (place / CHECKPOINT_FILE).unlink(missing_ok=True)  # first: half a checkpoint must not be gone on with
            remove_own_folder(place, CHECKPOINT_FILES)


def _owner(place: Path, workspace: Workspace) -> tuple[Workspace, str, str, str]:
    """Whose checkpoint lies at a place: workspace, stage, data set and recipe.

    Raises:
        HistopipeError: nobody's that this release knows.
    """
    parts = place.relative_to(_checkpoints(workspace)).parts
    match parts:
        case (dataset, name) if dataset not in (SEARCHES, STUDIES):
            own = workspace
        case ("studies", study, dataset, name, variant) if study in KINDS:
            own = _variant(workspace, place, study, name, variant)
        case ("searches", dataset, name, study, number) if number.isdigit():
            own = TrialWorkspace(workspace.root, study, int(number), "")
        case _:
            raise HistopipeError(f"{place} is no checkpoint of this release: delete it")
    return own, own.training_stage(dataset, name), dataset, name


def _variant(workspace: Workspace, place: Path, study: str, architecture: str, written: str) -> VariantWorkspace:
    try:
        of, variant = parse_variant(f"{study.removesuffix('s')}-{written}")
    except ValueError as problem:
        raise HistopipeError(f"{place}: {problem}") from None
    return VariantWorkspace(workspace.root, of, architecture, variant)


def _is_recorded(place: Path, workspace: Workspace) -> bool:
    """Whether the training came to its end, and `dvc.lock` has what it gave."""
    marker = place / FINISHED_FILE
    if not marker.exists():
        return False
    try:
        own, stage, dataset, name = _owner(place, workspace)
        record = own.training_record(dataset, name).relative_to(own.root).as_posix()
        return bool(read_json(marker)["md5"] == output_hash(own, stage, record))
    except (HistopipeError, OSError, KeyError, TypeError):
        return False


def _is_current(place: Path, workspace: Workspace) -> bool:
    """Whether the training, started now, would go on with the checkpoint; yes where that can't be told."""
    try:
        own, _, dataset, name = _owner(place, workspace)
        params = read_params(workspace.params)
    except HistopipeError:
        return False
    if name not in params.recipes or dataset not in params.sources:
        return False
    try:
        if isinstance(own, TrialWorkspace):
            return own.study == study_name(dataset, name, params, workspace)
        return _progress(place / CHECKPOINT_FILE).get("key") in (None, _key(own, dataset, name, params))
    except (HistopipeError, OSError, ValueError, KeyError):
        return True  # patches or split are missing just now


def _key(own: Workspace, dataset: str, name: str, params: Params) -> str:
    """Under which the training would look for its checkpoint."""
    if isinstance(own, VariantWorkspace):
        params = variant_params(own.study, own.variant, params)
    training = plan_training(dataset, name, params, own)
    digest = recipe_digest(params, name, training.weights.sha256 if training.weights else None)
    return training_key(digest, own, dataset, training.architecture)


def half_written(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """What killed processes were writing when they were killed, told by names that only histopipe gives.

    An old version that was put aside stays: the next start of its stage brings it back, or deletes it once it has seen
    that no file of a user's is in it.
    """

    def is_garbage(path: Path) -> bool:
        name = parse_temporary_name(path.name)
        return name is not None and name[2] == "part" and is_abandoned(path) and age.passed(path)

    found = [path for path in _walk(workspace) if is_garbage(path)]
    tracked = _tracked(workspace) if found else frozenset()
    garbage = [path for path in found if not any(path == one or path in one.parents for one in tracked)]
    if garbage:
        yield Leftover(
            "half-written files",
            f"their process is gone; untouched for {age.written}",
            len(garbage),
            room(garbage),
            partial(_drop, garbage, is_garbage),
        )


def _walk(workspace: Workspace) -> Iterator[Path]:
    """Files and folders that stages write, links not followed."""
    home = workspace.home
    yield from (entry for entry in home.iterdir() if not entry.is_dir())
    for top in (*WRITTEN, *HIDDEN):
        for place, folders, files in os.walk(home / top):
            yield from (Path(place) / name for name in (*folders, *files))
            folders[:] = [name for name in folders if not parse_temporary_name(name)]


def _tracked(workspace: Workspace) -> frozenset[Path]:
    """What git tracks, whatever it is called.

    Raises:
        HistopipeError: git can't tell.
    """
    listed = git(workspace, "ls-files", "-z")
    return frozenset(workspace.home / name for name in listed.split("\0") if name)


def old_notes(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """Downloads that nobody went on with, and reasons of failures that nobody will ask for."""
    sorts = (
        ("unfinished downloads", ".downloads/*/", "nobody went on with them; a new one starts at the beginning"),
        ("reasons of failures", ".failures/*@*.json", "read by the flow in which a stage failed, right after"),
        ("DVC's experiment folders", ".dvc/tmp/exps/standalone/tmp*/", "left by killed `dvc exp run --temp`"),
    )
    for what, pattern, why in sorts:
        present = sorted(workspace.home.glob(pattern))
        if what == "unfinished downloads":
            present = [path for path in present if find_foreign_file(path, DOWNLOADED) is None]
        yield from _untouched(what, present, why, age)


def old_parts(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """Shards that workers decoded for an ingest that never came to put them together."""
    keys = sorted((_checkpoints(workspace) / "ingest").glob(f"*/{'[0-9a-f]' * 64}"))  # DATA_SET/KEY
    present = [path for path in keys if find_foreign_file(path, PART_FILES) is None]
    yield from _untouched("parts of ingests", present, "no ingest took them; the next decodes them again", age)


def _untouched(what: str, present: Sequence[Path], why: str, age: Age) -> Iterator[Leftover]:
    if found := [path for path in present if age.passed(path)]:
        removal = partial(_drop, found, age.passed)
        yield Leftover(what, f"{why}; untouched for {age.written}", len(found), room(found), removal)


def _drop(paths: Iterable[Path], still: Callable[[Path], bool]) -> None:
    """Delete files and folders of which it still holds what made them garbage."""
    for path in filter(still, paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
