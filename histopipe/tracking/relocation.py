"""Repair the embedded tracking database of a moved checkout: it stores absolute paths of the runs' files."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from histopipe.core.errors import TrackingError

ARTIFACTS = "mlartifacts"  # folder next to the database
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
    """Point a database to the files next to it, where the folder that it names for them no longer exists.

    A copy whose original still exists is not changed, nor are files that were never next to the database, nor a
    database behind a symbolic link.

    Args:
        database: `mlflow.db` of a checkout; a missing one isn't created.
        running: returns the stages that run in the checkout, and each one's path of the checkout.

    Raises:
        TrackingError: a running stage uses the folder that doesn't exist here, inside or outside a container.
    """
    if not database.is_file() or database.is_symlink():  # which may be another checkout's
        return
    new_root = (database.parent / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=SECONDS)) as connection:
        try:
            locations = [row[0] for row in connection.execute(_EXPERIMENTS)]
        except sqlite3.Error:  # without tables yet, or damaged, which MLflow reports better
            return
        roots = list(filter(_is_root, locations))
        for old_root in filter(_is_gone, roots):
            if old_root != new_root and (len(roots) == 1 or _files_moved(connection, old_root, new_root)):
                _require_unused(old_root, database, running())
                _rename(connection, old_root, new_root)
                _log.warning("%s: runs' files are now read from %s, since %s is gone", database, new_root, old_root)


def _require_unused(root: str, database: Path, running: Mapping[str, Path]) -> None:
    for stage, folder in running.items():
        if (folder / ARTIFACTS).as_uri() == root:
            raise TrackingError(
                f"{stage} runs in this checkout as {folder}, a path that isn't there from here, and {database.name} "
                "names files by it: wait for it to end, or mount the checkout under the same path (docs/production.md)"
            )


def _is_root(location: str | None) -> bool:
    """Return whether a location is a folder of artifacts next to a database."""
    parts = urlsplit(location or "")
    return parts.scheme == "file" and _path(parts.path).name == ARTIFACTS


def _is_gone(root: str) -> bool:
    """Return whether a folder doesn't exist any more."""
    try:
        return not _path(urlsplit(root).path).exists()
    except OSError:  # not readable for this user
        return False


def _files_moved(connection: sqlite3.Connection, old_root: str, new_root: str) -> bool:
    """Return whether files of the runs logged there are here; for a drive that is only unplugged, none are."""
    query = "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?"
    logged = [row[0] for row in connection.execute(query, (len(old_root) + 1, f"{old_root}/"))]
    return any(_path(urlsplit(new_root + uri[len(old_root) :]).path).exists() for uri in logged)


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
