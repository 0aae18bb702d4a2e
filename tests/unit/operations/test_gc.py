"""What counts as garbage: ages, sizes, names of half-written files, whose checkpoint is whose."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from histopipe.core.errors import BusyError, HistopipeError
from histopipe.core.files import parse_temporary_name, replaced_file, temporary_path
from histopipe.core.lineage import checkout_name
from histopipe.core.workspace import Workspace
from histopipe.ingest.parts import forget_other_keys
from histopipe.operations.gc.activity import _describe_command, _runs_here
from histopipe.operations.gc.collection import activity, collect, removing
from histopipe.operations.gc.history import History
from histopipe.operations.gc.leftover import Age, Leftover, room
from histopipe.operations.gc.remains import half_written, old_notes, old_parts, outdated_checkpoints
from histopipe.operations.gc.runs import unnamed
from histopipe.tracking.stores import experiment_name, open_client
from histopipe.training.checkpoint import CHECKPOINT_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient

AT_ONCE = Age.parse("0d")
DEAD = 2**22 + 1  # above Linux' highest process id


@pytest.mark.parametrize(("written", "seconds"), [("7d", 604800), ("1.5h", 5400), ("0", 0), ("2w", 1209600), ("0d", 0)])
def test_ages_are_read_as_people_write_them(written: str, seconds: float) -> None:
    assert Age.parse(written).seconds == seconds


@pytest.mark.parametrize("written", ["", "7", "d", "-1d", "7 days", "1e9d"])
def test_what_is_no_age_is_refused(written: str) -> None:
    with pytest.raises(HistopipeError, match="--older-than"):
        Age.parse(written)


def test_a_folder_is_as_old_as_its_newest_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    new = tmp_path / "a" / "new"
    new.touch()
    for path in (new, tmp_path / "a"):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    assert Age.parse("10m").passed(tmp_path / "a")
    new.touch()
    assert not Age.parse("10m").passed(tmp_path / "a")


def test_what_has_a_second_name_elsewhere_gives_back_no_room(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"12345")
    assert room([tmp_path / "one"]) == 5
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert room([tmp_path / "one"]) == 0


def test_the_names_of_files_being_written_are_known(tmp_path: Path) -> None:
    with replaced_file(tmp_path / "a.json") as beside:
        assert parse_temporary_name(beside.name) == ("a.json", os.getpid(), "part")
        beside.touch()
    assert parse_temporary_name("a.json") is None and parse_temporary_name("notes.part") is None


@pytest.fixture
def repository(workspace: Workspace) -> Workspace:
    subprocess.run(["git", "init", "--quiet"], cwd=workspace.root, check=True)
    return workspace


def test_half_written_files_go_but_for_live_ones_tracked_ones_and_the_only_version(repository: Workspace) -> None:
    reports = repository.root / "reports"
    reports.mkdir()
    pids = (("a", DEAD), ("b", os.getpid()), ("c", DEAD))
    gone, live, tracked = (temporary_path(reports / name, "part", pid) for name, pid in pids)
    old = temporary_path(reports / "idc", "old", DEAD)  # a user's file may be in it
    for path in (gone, live, tracked):
        path.touch()
    old.mkdir()
    subprocess.run(["git", "add", "-f", str(tracked)], cwd=repository.root, check=True)
    assert not list(half_written(repository, Age.parse("7d")))
    (line,) = half_written(repository, AT_ONCE)
    assert line.count == 1 and line.removal
    line.removal()
    assert sorted(reports.iterdir()) == sorted([live, tracked, old])


def test_a_users_files_named_like_half_written_ones_stay(repository: Workspace) -> None:
    names = (".notes.txt.2024.part", f".a.{DEAD}.part", f".a.csv.{DEAD}-0a1b2c3d.part", f".b.{DEAD}.old", "c.part")
    foreign = [repository.root / folder / name for folder in ("", "scores", "data/mine") for name in names]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    assert not list(collect(repository, "0d", ["files"]))
    assert all(path.exists() for path in foreign)


def test_a_users_files_in_folders_of_notes_stay(repository: Workspace) -> None:
    thesis = [repository.downloads("idc") / "thesis.txt", repository.downloads("mine.txt")]
    thesis += [
        repository.failure("x").with_name("thesis.txt"),
        repository.checkpoint("idc", "cancernet") / "thesis.txt",
    ]
    for path in (*thesis, repository.failure("train@idc-cancernet"), repository.downloads("malaria") / "a.zip.part"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (repository.checkpoint("idc", "cancernet") / CHECKPOINT_FILE).write_bytes(b"x")
    for line in (*old_notes(repository, AT_ONCE), *outdated_checkpoints(repository, AT_ONCE)):
        if line.removal:
            line.removal()
    assert all(path.exists() for path in thesis)
    assert not repository.downloads("malaria").exists()
    assert not repository.failure("train@idc-cancernet").exists()


def test_a_users_files_named_like_downloads_and_parts_stay(repository: Workspace) -> None:
    part, variant = repository.parts("idc") / ("ab" * 32), repository.checkpoint("idc", "cancernet")
    thesis = [repository.downloads("idc") / ".notes.txt.2024.part", part / "1-3/thesis.txt", variant / "model/thesis"]
    for path in (*thesis, part / "1-3/patches-00000.npy", variant / CHECKPOINT_FILE, variant / "model/run.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for find in (old_notes, old_parts, outdated_checkpoints):
        for line in find(repository, AT_ONCE):
            if line.removal:
                line.removal()
    forget_other_keys(part.with_name("cd" * 32))
    assert all(path.exists() for path in thesis)
    thesis[1].unlink()
    forget_other_keys(part.with_name("cd" * 32))
    assert not part.exists()


def test_a_checkpoint_of_a_recipe_that_is_gone_goes_once_it_is_old(repository: Workspace) -> None:
    place = repository.checkpoint("idc", "no_such_recipe")
    place.mkdir(parents=True)
    (place / CHECKPOINT_FILE).write_bytes(b"x")
    (line,) = outdated_checkpoints(repository, Age.parse("7d"))
    assert line.state == "kept" and line.removal is None
    (line,) = outdated_checkpoints(repository, Age.parse("0d"))
    assert line.removal
    line.removal()
    assert not place.exists()


def test_a_checkpoint_that_a_training_may_go_on_with_stays(repository: Workspace) -> None:
    place = repository.checkpoint("idc", "cancernet")
    place.mkdir(parents=True)
    (place / CHECKPOINT_FILE).write_bytes(b"x")  # no store to say what its training would look for
    assert list(outdated_checkpoints(repository, Age.parse("0d"))) == []


def test_unfinished_downloads_wait_for_their_age(repository: Workspace) -> None:
    part = repository.downloads("idc") / "archive.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    assert not list(old_notes(repository, Age.parse("7d")))
    (line,) = old_notes(repository, Age.parse("0d"))
    assert line.kind == "unfinished downloads" and line.size == 4


def test_what_was_written_to_since_it_was_listed_stays(repository: Workspace) -> None:
    part = repository.downloads("idc") / "archive.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    for path in (part, part.parent):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    (line,) = old_notes(repository, Age.parse("10m"))
    part.write_bytes(b"and more")
    assert line.removal
    line.removal()
    assert part.exists()


def test_old_parts_of_an_ingest_go(repository: Workspace) -> None:
    part = repository.parts("idc") / ("0123456789abcdef" * 4) / "1-3" / "patches-000.npy"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"pixels")
    assert not list(old_parts(repository, Age.parse("7d")))
    (line,) = old_parts(repository, AT_ONCE)
    assert line.count == 1 and line.removal
    line.removal()
    assert not list(repository.parts("idc").iterdir())


def lock_of(hashed: str, path: str = "models/idc/cancernet/run.json") -> str:
    """A `dvc.lock` with one output."""
    return f"stages:\n  train@idc-cancernet:\n    outs:\n    - path: {path}\n      md5: {hashed}\n"


def test_every_stash_is_needed_and_hashes_are_read_however_yaml_writes_them(repository: Workspace) -> None:
    def git(*arguments: str) -> None:
        own = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *own, *arguments], cwd=repository.root, check=True, capture_output=True)

    hashes = ["a" * 32, "1" * 32, f"{'2' * 32}", "3" * 32]
    for number, (written, step) in enumerate(zip((hashes[0], f"'{hashes[1]}'", f'"{hashes[2]}"'), "css", strict=True)):
        repository.dvc_lock.write_text(lock_of(written))
        git("add", "--force", "dvc.lock")
        git(*(("commit", "--message", "first") if step == "c" else ("stash", "push", "--message", str(number))))
    repository.dvc_lock.write_text(lock_of(f"'{hashes[3]}'"))
    assert History(repository, repository.root / "cache").hashes == set(hashes)


def test_outside_git_nothing_half_written_goes_and_one_line_says_why(workspace: Workspace) -> None:
    temporary_path(workspace.root / "a", "part", DEAD).touch()
    (line,) = collect(workspace, "0d", ["files"])
    assert line.state == "unknown" and "git" in line.reason and line.removal is None


@pytest.fixture
def no_prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server is set that could be asked."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


@pytest.mark.usefixtures("no_prefect")
def test_what_cannot_be_removed_is_said_and_the_rest_goes_on(repository: Workspace) -> None:
    def refused() -> None:
        raise BusyError("a DVC command is running here")

    done: list[str] = []
    with removing(repository) as remove:
        line = remove(Leftover("DVC cache", "unreferenced", 3, removal=refused))
        assert (line.state, line.removal) == ("unknown", None) and "a DVC command is running here" in line.reason
        assert remove(Leftover("files", "old", removal=lambda: done.append("files"))).state == "removed"
        with FileLock(repository.lock("train@idc-cancernet")):  # started since
            line = remove(Leftover("files", "old", removal=lambda: done.append("more files")))
        assert line.state == "unknown" and "train@idc-cancernet" in line.reason
    assert done == ["files"]


@pytest.mark.usefixtures("no_prefect")
def test_a_dask_worker_s_task_counts_as_work(repository: Workspace) -> None:
    assert activity(repository) == []
    repository.lock("clone").parent.mkdir()
    with FileLock(repository.lock("clone")):
        assert activity(repository) == ["a Dask worker's task"]
    assert activity(repository) == []


def test_a_deployment_runs_here_unless_it_names_another_folder(repository: Workspace) -> None:
    home = str(repository.checkout)
    assert _runs_here({"path": None, "pull_steps": [{"flows.checkout.enter": {}}]}, repository)
    assert _runs_here({"path": "", "pull_steps": None}, repository)
    assert _runs_here({"path": home}, repository)
    step = "prefect.deployments.steps.set_working_directory"
    assert _runs_here({"pull_steps": [{step: {"directory": home}}]}, repository)
    assert not _runs_here({"pull_steps": [{step: {"directory": "/elsewhere"}}]}, repository)
    assert not _runs_here({"path": "/elsewhere"}, repository)


def own_run(client: MlflowClient, workspace: Workspace, **tags: str) -> str:
    """A finished run of this checkout that nothing names."""
    name = experiment_name("idc")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, (workspace.root / "runs").as_uri())
    own = {"dataset": "idc", "architecture": "cancernet", "checkout": checkout_name(workspace)}
    run = client.create_run(experiment, tags=own | tags)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def test_runs_that_flows_made_in_a_shared_store_stay(repository: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def states() -> dict[str, str]:
        return {line.kind: line.state for line in unnamed(history, frozenset(), AT_ONCE)}

    history = History(repository, repository.root / "cache")
    own_run(open_client(repository), repository, prefect_flow_run="one")
    assert states() == {"MLflow runs": "garbage"}
    (repository.root / "mlflow.db").rename(repository.root / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{repository.root / 'shared.db'}")
    assert states() == {"MLflow runs of flows": "kept"}


def test_a_deleted_run_that_a_commit_may_name_is_not_purged(repository: Workspace) -> None:
    def found() -> list[Leftover]:
        return list(unnamed(History(repository, repository.root / "cache"), frozenset(), AT_ONCE))

    client = open_client(repository)
    run = own_run(client, repository)
    client.log_text(run, "x", "note.txt")
    client.delete_run(run)
    repository.dvc_lock.write_text(lock_of("a" * 32))  # isn't in the cache
    assert found() == []
    repository.dvc_lock.unlink()
    (line,) = found()
    assert line.kind == "deleted MLflow runs" and line.removal
    client.restore_run(run)
    line.removal()
    assert list((repository.root / "runs").rglob("note.txt"))  # restored since it was listed
    client.delete_run(run)
    line.removal()
    assert not list((repository.root / "runs").iterdir())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python -m flows.pipeline", "flows.pipeline"),
        ("python -m prefect.flow_engine", "prefect.flow_engine"),
        ("/venv/bin/python /venv/bin/dvc repro", "dvc repro"),
        ("python -m dvc --wait-for-lock repro", "dvc repro"),
        ("python -m flows.serve", ""),
        ("python -m dvc status", ""),
        ("vim dvc.yaml", ""),
        ("bash", ""),
    ],
)
def test_flows_and_dvc_are_told_from_servers_and_editors(command: str, said: str) -> None:
    assert _describe_command(command.split()) == said
