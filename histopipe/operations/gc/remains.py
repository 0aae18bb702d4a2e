"""Files that runs left in the checkout: checkpoints that no training resumes, and files that killed processes left."""

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
    *("checkpoint.npz", "finished.json", "*/*/*.npz"),  # including features of a frozen network
    *(f"model/{name}" for name in FILES["train"]),  # of a variant or a trial
    *(f"evaluation/{name}" for name in FILES["evaluate"]),
)
HIDDEN = (".checkpoints", ".digests", ".downloads", ".failures", ".used-sources")
SEARCHES, STUDIES = "searches", "studies"  # next to the data sets' folders


def resumable_runs(workspace: Workspace) -> frozenset[str]:
    """Return the ids of the MLflow runs that checkpoints resume."""
    run_ids = (_progress(path).get("run_id") for path in _checkpoints(workspace).rglob(CHECKPOINT_FILE))
    return frozenset(str(run_id) for run_id in run_ids if run_id)


def _checkpoints(workspace: Workspace) -> Path:
    return workspace.checkout / ".checkpoints"


def _progress(path: Path) -> dict[str, object]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(json.loads(arrays["progress"].tobytes()))
    except Exception:  # an incomplete file, or another program's
        return {}


def outdated_checkpoints(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """Find checkpoints of trainings whose result DVC has, and those that no training can resume from."""
    folders = sorted({path.parent for name in (CHECKPOINT_FILE, FINISHED_FILE) for path in _files(workspace, name)})
    finished = [folder for folder in folders if _is_recorded(folder, workspace)]
    if finished:
        reason = "dvc.lock has the trainings' results: they would start from scratch if trained again"
        yield _checkpoint_line(reason, finished, workspace, partial(_is_recorded, workspace=workspace))
    waiting = [folder for folder in folders if folder not in finished and not _is_current(folder, workspace)]
    outdated = [folder for folder in waiting if age.passed(folder)]
    if outdated:
        reason = f"unfinished, of other parameters, data or code than the current ones, untouched for {age.written}"
        yield _checkpoint_line(reason, outdated, workspace, age.passed)
    if young := [folder for folder in waiting if folder not in outdated]:
        reason = f"unfinished, of other parameters, data or code than the current ones, but younger than {age.written}"
        yield Leftover("checkpoints", reason, len(young), room(young), state="kept")


def _files(workspace: Workspace, name: str) -> Iterator[Path]:
    return _checkpoints(workspace).rglob(name)


def _checkpoint_line(
    reason: str, folders: Sequence[Path], workspace: Workspace, still: Callable[[Path], bool]
) -> Leftover:
    removal = partial(_remove_checkpoints, folders, workspace, still)
    return Leftover("checkpoints", reason, len(folders), room(folders), removal)


def _remove_checkpoints(folders: Iterable[Path], workspace: Workspace, still: Callable[[Path], bool]) -> None:
    """Remove checkpoints, each under its stage's lock; those whose training has started meanwhile stay."""
    for folder in folders:
        path = workspace.lock(_owner(folder, workspace)[1])
        with suppress(BusyError), exclusive_lock(path, wait=0):
            if not still(folder):
                continue
            # first this file, since an incomplete checkpoint must not be resumed
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
            remove_own_folder(folder, CHECKPOINT_FILES)


def _owner(folder: Path, workspace: Workspace) -> tuple[Workspace, str, str, str]:
    """Return workspace, stage, data set and recipe of the training that a checkpoint belongs to.

    Raises:
        HistopipeError: this release knows no such training.
    """
    parts = folder.relative_to(_checkpoints(workspace)).parts
    match parts:
        case (dataset, name) if dataset not in (SEARCHES, STUDIES):
            own = workspace
        case ("studies", study, dataset, name, variant) if study in KINDS:
            own = _variant(workspace, folder, study, name, variant)
        case ("searches", dataset, name, study, number) if number.isdigit():
            own = TrialWorkspace(workspace.root, study, int(number), "")
        case _:
            raise HistopipeError(f"{folder} is no checkpoint of this release: delete it")
    return own, own.training_stage(dataset, name), dataset, name


def _variant(workspace: Workspace, folder: Path, study: str, architecture: str, written: str) -> VariantWorkspace:
    try:
        of, variant = parse_variant(f"{study.removesuffix('s')}-{written}")
    except ValueError as problem:
        raise HistopipeError(f"{folder}: {problem}") from None
    return VariantWorkspace(workspace.root, of, architecture, variant)


def _is_recorded(folder: Path, workspace: Workspace) -> bool:
    """Return whether the training has finished, and `dvc.lock` has its result."""
    marker = folder / FINISHED_FILE
    if not marker.exists():
        return False
    try:
        own, stage, dataset, name = _owner(folder, workspace)
        record = own.training_record(dataset, name).relative_to(own.root).as_posix()
        return bool(read_json(marker)["md5"] == output_hash(own, stage, record))
    except (HistopipeError, OSError, KeyError, TypeError):
        return False


def _is_current(folder: Path, workspace: Workspace) -> bool:
    """Return whether the training, if started now, would resume from the checkpoint; true if that is unknown."""
    try:
        own, _, dataset, name = _owner(folder, workspace)
        params = read_params(workspace.params)
    except HistopipeError:
        return False
    if name not in params.recipes or dataset not in params.sources:
        return False
    try:
        if isinstance(own, TrialWorkspace):
            return own.study == study_name(dataset, name, params, workspace)
        return _progress(folder / CHECKPOINT_FILE).get("key") in (None, _key(own, dataset, name, params))
    except (HistopipeError, OSError, ValueError, KeyError):
        return True  # patches or split are missing at the moment


def _key(own: Workspace, dataset: str, name: str, params: Params) -> str:
    """Return the key under which the training would look for its checkpoint."""
    if isinstance(own, VariantWorkspace):
        params = variant_params(own.study, own.variant, params)
    training = plan_training(dataset, name, params, own)
    digest = recipe_digest(params, name, training.weights.sha256 if training.weights else None)
    return training_key(digest, own, dataset, training.architecture)


def half_written(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """Find files that killed processes were writing, recognised by names that only histopipe uses.

    An old version that was set aside stays: the next start of its stage restores it, or deletes it after checking that
    it holds no file of the user's.
    """

    def is_garbage(path: Path) -> bool:
        name = parse_temporary_name(path.name)
        return name is not None and name[2] == "part" and is_abandoned(path) and age.passed(path)

    candidates = [path for path in _walk(workspace) if is_garbage(path)]
    tracked = _tracked(workspace) if candidates else frozenset()
    garbage = [path for path in candidates if not any(path == file or path in file.parents for file in tracked)]
    if garbage:
        yield Leftover(
            "half-written files",
            f"their process is gone; untouched for {age.written}",
            len(garbage),
            room(garbage),
            partial(_drop, garbage, is_garbage),
        )


def _walk(workspace: Workspace) -> Iterator[Path]:
    """Yield the files and folders that stages write, without following links."""
    home = workspace.checkout
    yield from (entry for entry in home.iterdir() if not entry.is_dir())
    for top in (*WRITTEN, *HIDDEN):
        for folder, folders, files in os.walk(home / top):
            yield from (Path(folder) / name for name in (*folders, *files))
            folders[:] = [name for name in folders if not parse_temporary_name(name)]


def _tracked(workspace: Workspace) -> frozenset[Path]:
    """Return all files that git tracks.

    Raises:
        HistopipeError: git fails.
    """
    listed = git(workspace, "ls-files", "-z")
    return frozenset(workspace.checkout / name for name in listed.split("\0") if name)


def old_notes(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """Find downloads that were never resumed, records of failures that no flow will read, and experiment folders."""
    sorts = (
        ("unfinished downloads", ".downloads/*/", "they were not resumed; a new download starts at the beginning"),
        ("reasons of failures", ".failures/*@*.json", "the flow in which a stage failed reads them right afterwards"),
        ("DVC's experiment folders", ".dvc/tmp/exps/standalone/tmp*/", "left by killed `dvc exp run --temp`"),
    )
    for kind, pattern, reason in sorts:
        present = sorted(workspace.checkout.glob(pattern))
        if kind == "unfinished downloads":
            present = [path for path in present if find_foreign_file(path, DOWNLOADED) is None]
        yield from _untouched(kind, present, reason, age)


def old_parts(workspace: Workspace, age: Age) -> Iterator[Leftover]:
    """Find shards that workers decoded for an ingest that never joined them."""
    keys = sorted((_checkpoints(workspace) / "ingest").glob(f"*/{'[0-9a-f]' * 64}"))  # DATA_SET/KEY
    present = [path for path in keys if find_foreign_file(path, PART_FILES) is None]
    yield from _untouched("parts of ingests", present, "no ingest used them; the next one decodes them again", age)


def _untouched(kind: str, present: Sequence[Path], reason: str, age: Age) -> Iterator[Leftover]:
    if untouched := [path for path in present if age.passed(path)]:
        removal = partial(_drop, untouched, age.passed)
        yield Leftover(kind, f"{reason}; untouched for {age.written}", len(untouched), room(untouched), removal)


def _drop(paths: Iterable[Path], still: Callable[[Path], bool]) -> None:
    """Delete files and folders that are still garbage."""
    for path in filter(still, paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
