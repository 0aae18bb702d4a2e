"""The embedded tracking database of a checkout that was moved: it names the files of runs by their whole paths."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from histopipe.core.errors import TrackingError

ARTIFACTS = "mlartifacts"  # folder beside the database
SECONDS = 30  # to wait for another process that writes

_log = logging.getLogger(__name__)

_EXPERIMENTS = "SELECT DISTINCT artifact_location FROM experiments"
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def follow_move(database: Path, running: Callable[[], Mapping[str, Path]] = dict) -> None:
    """Let a database look for its runs' files beside itself, where the folder that it names doesn't exist any more.

    A copy whose original still stands is left alone, and so are files that were never beside the database, and a
    database behind a link.

    Args:
        database: `mlflow.db` of a checkout; one that isn't there yet is not made.
        running: gives the stages that run in the checkout, and the folder that each takes for it.

    Raises:
        TrackingError: one of these has the folder that doesn't exist here, in a container or on the machine around it.
    """
    if not database.is_file() or database.is_symlink():  # which may be another checkout's
        return
    here = (database.parent / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=SECONDS)) as connection:
        try:
            locations = [row[0] for row in connection.execute(_EXPERIMENTS)]
        except sqlite3.Error:  # without tables yet, or damaged, which MLflow says better
            return
        roots = list(filter(_is_root, locations))
        for gone in filter(_is_gone, roots):
            if gone != here and (len(roots) == 1 or _lie_here(connection, gone, here)):
                _require_unused(gone, database, running())
                _rename(connection, gone, here)
                _log.warning("%s: runs' files are looked for in %s now, since %s is gone", database, here, gone)


def _require_unused(root: str, database: Path, running: Mapping[str, Path]) -> None:
    for stage, folder in running.items():
        if (folder / ARTIFACTS).as_uri() == root:
            raise TrackingError(
                f"{stage} runs in this checkout as {folder}, a path that isn't there from here, and {database.name} "
                "names files by it: wait for it to end, or mount the checkout under the same path (docs/production.md)"
            )


def _is_root(location: str | None) -> bool:
    """Whether a location is a folder of files beside some database."""
    parts = urlsplit(location or "")
    return parts.scheme == "file" and _path(parts.path).name == ARTIFACTS


def _is_gone(root: str) -> bool:
    """Whether it isn't there any more."""
    try:
        return not _path(urlsplit(root).path).exists()
    except OSError:  # nobody may look
        return False


def _lie_here(connection: sqlite3.Connection, gone: str, here: str) -> bool:
    """Whether files of runs that were logged there lie here: of a drive that is away only now, none do."""
    asked = "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?"
    logged = [row[0] for row in connection.execute(asked, (len(gone) + 1, f"{gone}/"))]
    return any(_path(urlsplit(here + uri[len(gone) :]).path).exists() for uri in logged)


def _path(url_path: str) -> Path:
    return Path(url2pathname(url_path))


def _rename(connection: sqlite3.Connection, before: str, now: str) -> None:
    values = {"now": now, "before": before, "inside": f"{before}/", "length": len(before)}
    with connection:
        for table, column in _PATHS:
            connection.execute(
                f"UPDATE {table} SET {column} = :now || substr({column}, :length + 1) "
                f"WHERE {column} = :before OR substr({column}, 1, :length + 1) = :inside",
                values,
            )
