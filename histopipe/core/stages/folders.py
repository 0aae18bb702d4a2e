"""The folders that stages replace completely: a file in them that no stage writes stops the stage."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from glob import escape
from pathlib import Path

from histopipe.core.errors import OutputError
from histopipe.core.outputs.claims import find_foreign_file
from histopipe.core.workspace import Workspace

_VARIANTS = ("split_variant", "train_variant", "evaluate_variant")  # which share a folder
_MANIFEST, _RECORD = "manifest.csv", "weights.json"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# files in each stage's folder, including earlier versions'; DVC compares folders byte by byte, so they hold no marker
FILES: dict[str, tuple[str, ...]] = {
    "fetch": (_MANIFEST,),  # and one archive
    "ingest": ("patches-*.npy", "index.parquet", "report.json"),
    "weights": (_RECORD,),  # and the file that it names
    "train": ("model.keras", "run.json", "history.csv", "history.png"),
    "evaluate": (
        *("calibration.csv", "cases.csv", "classification_report.txt", "confusion.csv", "explanation.json"),
        *("gallery.csv", "metrics.json", "operating_point.json", "precision_recall.csv", "predictions.parquet"),
        *("reference.parquet", "results.json", "roc.csv", "slides.csv", "subgroups.csv"),
        *("figures/*.png", "figures/slides/*.png"),
    ),
    "compare": ("comparison.json", "comparison.md", "comparison.png", "index.html", "pairs.png"),
    "study": ("summary.json", "summary.md", "summary.png"),
    "search": ("recipe.yaml", "trials.csv", "search.png"),
    **dict.fromkeys(
        _VARIANTS,
        (
            *("history.csv", "metrics.json", "model.keras", "operating_point.json", "predictions.parquet"),
            *("run.json", "split.csv", "variant.json"),
        ),
    ),
}


def stage_check(stage: str) -> Callable[[Path], None]:
    """Make a check, for `histopipe.core.files.replaced_folder`, that a folder has only files that the stage writes.

    Args:
        stage: the name of the stage, without data set and architecture.
    """

    def check(folder: Path) -> None:
        if folder.is_symlink():  # only the link is replaced
            return
        file = find_foreign_file(folder, (*FILES[stage], *_files_of_any_name(stage, folder)))
        if file is not None:
            raise OutputError(
                f"{file} is no file of `histopipe {stage}`, which would replace the whole folder: move it away"
            )

    return check


def _files_of_any_name(stage: str, folder: Path) -> list[str]:
    """Return names that only the folder's content decides: of `fetch`'s archive, and of a record's weights."""
    if stage == "fetch" and folder.is_dir():
        files = [path for path in folder.iterdir() if path.is_file() and path.name != _MANIFEST]
        archives = [path.name for path in files if _is_archive(path)]
        return list(map(escape, archives)) if len(archives) == 1 else []  # if there are several, one is the user's
    if stage == "weights":
        try:
            name = json.loads((folder / _RECORD).read_text(encoding="utf-8")).get("file")
            return [escape(name)] if name else []
        except (OSError, ValueError, AttributeError, TypeError):
            return ["*.h5", "*.keras"]
    return []


def _is_archive(path: Path) -> bool:
    if path.name.lower().endswith(_ARCHIVES):
        return True
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except Exception:  # a file that only begins like an archive fails in as many ways as there are formats
        return False


def require_own_folder(
    stage: str, dataset: str | None, architecture: str | None, variant: str | None, workspace: Workspace
) -> None:
    """Check, before a stage does any work, that the folder it will replace contains no file of a user.

    Args:
        stage: the name of the stage.
        dataset, architecture, variant: the names that the stage is run for; None where it has none.
        workspace: the checkout with the folder.

    Raises:
        OutputError: the folder contains such a file; the message names it.
    """
    folder = _folder(stage, dataset or "", architecture or "", variant or "", workspace)
    if folder is not None and os.path.lexists(folder):
        stage_check(stage)(folder)


def _folder(stage: str, dataset: str, architecture: str, variant: str, workspace: Workspace) -> Path | None:
    """Return the folder that a stage replaces; None for a stage that replaces files, or parts of an ingest."""
    if stage in _VARIANTS:
        return workspace.variant_folder(dataset, architecture, variant)
    if stage == "ingest" and variant:
        return None
    folders: dict[str, Callable[[], Path]] = {
        "fetch": lambda: workspace.raw(dataset),
        "ingest": lambda: workspace.store(dataset),
        "weights": lambda: workspace.weights(architecture),
        "train": lambda: workspace.model(dataset, architecture),
        "evaluate": lambda: workspace.evaluation(dataset, architecture),
        "compare": lambda: workspace.report(dataset),
        "study": lambda: workspace.study_summary(variant, dataset),
        "search": lambda: workspace.search(dataset, architecture),
    }
    return folders[stage]() if stage in folders else None
