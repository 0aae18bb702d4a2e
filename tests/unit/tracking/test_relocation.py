"""What counts as files that are gone, and whose database is rewritten for that."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from histopipe.core.errors import TrackingError
from histopipe.core.stages.running import PLACE, checkouts_of_running_stages, running
from histopipe.core.workspace import Workspace
from histopipe.networks.weights.intact import is_gone
from histopipe.tracking.relocation import follow_move
from histopipe.tracking.stores import open_client


def database_of(folder: Path) -> Path:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        for table, columns in {
            "experiments": "artifact_location",
            "runs": "artifact_uri",
            "logged_models": "artifact_location",
            "model_versions": "storage_location, source",
        }.items():
            connection.execute(f"CREATE TABLE {table} ({columns})")
        connection.execute("INSERT INTO experiments VALUES (?)", [(folder / "mlartifacts").as_uri()])
    return folder / "mlflow.db"


def locations_in(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [str(row[0]) for row in connection.execute("SELECT artifact_location FROM experiments")]


def test_a_link_to_another_checkouts_database_leaves_it_as_it_is(tmp_path: Path) -> None:
    database = database_of(tmp_path / "theirs")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mlflow.db").symlink_to(database)
    follow_move(tmp_path / "mine" / "mlflow.db")
    assert locations_in(database) == [(tmp_path / "theirs" / "mlartifacts").as_uri()]


def test_a_moved_database_follows(tmp_path: Path) -> None:
    database_of(tmp_path / "before")
    moved = (tmp_path / "before").rename(tmp_path / "now") / "mlflow.db"
    follow_move(moved)
    assert locations_in(moved) == [(tmp_path / "now" / "mlartifacts").as_uri()]


def test_a_database_is_not_rewritten_under_a_stage_that_sees_it_elsewhere(workspace: Workspace) -> None:
    (workspace.root / "mlflow.db").unlink(missing_ok=True)
    database_of(workspace.root / "inside").rename(workspace.root / "mlflow.db")
    before = locations_in(workspace.root / "mlflow.db")
    with running("train@idc-cancernet", workspace):
        place = workspace.lock("train@idc-cancernet").with_suffix(PLACE)
        assert checkouts_of_running_stages(workspace) == {"train@idc-cancernet": Path(place.read_text())}
        place.write_text(str(workspace.root / "inside"))  # as a container has it
        (workspace.root / "inside").rmdir()
        with pytest.raises(TrackingError, match=r"train@idc-cancernet runs in this checkout as .*/inside, a path that"):
            open_client(workspace)
        assert locations_in(workspace.root / "mlflow.db") == before
    follow_move(workspace.root / "mlflow.db", partial(checkouts_of_running_stages, workspace))
    assert locations_in(workspace.root / "mlflow.db") == [(workspace.root / "mlartifacts").as_uri()]


def test_a_drive_that_is_away_is_not_taken_for_a_folder_that_was_moved(tmp_path: Path) -> None:
    database, away = database_of(tmp_path / "mine"), (tmp_path / "drive" / "mlartifacts").as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO experiments VALUES (?)", [away])
        connection.execute("INSERT INTO runs VALUES (?)", [f"{away}/run/artifacts"])
    follow_move(database)
    assert away in locations_in(database)
    (tmp_path / "mine" / "mlartifacts" / "run" / "artifacts").mkdir(parents=True)  # they are brought here
    follow_move(database)
    assert away not in locations_in(database)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_a_full_disk_is_no_sign_that_a_models_files_are_gone(number: int) -> None:
    assert not is_gone(OSError(number, "while it was copied"))


def test_mlflows_own_complaint_of_a_missing_file_is_one() -> None:
    assert is_gone(OSError("No such file or directory: '/gone/model'"))
    assert is_gone(FileNotFoundError(errno.ENOENT, "gone"))
