"""`histopipe gc`: what nothing refers to goes, on request; all else stays, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from filelock import FileLock

from benchmarks.checkouts import NO_FLOORS
from histopipe.core.files import temporary_path
from histopipe.core.stages.running import EXIT_BUSY
from histopipe.core.workspace import Workspace
from histopipe.operations.gc.cache import cache_folder, unreferenced
from histopipe.operations.gc.history import History
from histopipe.operations.gc.leftover import Age
from tests.builders import servers
from tests.builders.checkouts import Checkout
from tests.builders.registry import NAME, client

Make = Callable[..., Checkout]
LENIENT = NO_FLOORS  # two epochs on three test cases
RECORD = "models/idc/cancernet/run.json"


def lines_of(project: Checkout, *options: str, code: int = 0) -> dict[str, tuple[str, str]]:
    """State and the rest of each of the table's lines, by what it is about."""
    wide = Checkout(project.root, {**project.environment, "COLUMNS": "300"})
    done = wide.histopipe("gc", *options, check=False)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert done.returncode == code, done.stdout + done.stderr
    found = re.findall(r"^ *(garbage|removed|kept|unknown) {2,}(\S.*?) {2,}(.*?) *$", done.stdout, re.MULTILINE)
    return {what: (state, rest) for state, what, rest in found}


def content(project: Checkout) -> dict[str, Any]:
    """Digest of every file that isn't a tool's own note, and all rows of MLflow's database."""
    aside = (".dvc/tmp", ".locks", "__pycache__", "mlflow.db", ".git/", ".prefect")
    files = {
        name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(project.root.rglob("*"))
        if path.is_file() and not any(part in (name := str(path.relative_to(project.root))) for part in aside)
    }
    with closing(sqlite3.connect(project.root / "mlflow.db")) as database:
        return {**files, "rows": list(database.iterdump())}


def stages_of_runs(project: Checkout) -> dict[str, str]:
    """MLflow's lifecycle stage of every run in the database."""
    with closing(sqlite3.connect(project.root / "mlflow.db", timeout=60)) as database:
        return dict(database.execute("SELECT run_uuid, lifecycle_stage FROM runs"))


def objects_of(project: Checkout) -> set[str]:
    return {path.parent.name + path.name for path in (project.root / ".dvc/cache/files/md5").glob("*/*")}


def run_id(project: Checkout) -> str:
    return str(json.loads((project.root / RECORD).read_text())["run_id"])


def commit(project: Checkout) -> str:
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "results")
    return project.run("git", "rev-parse", "HEAD").stdout.strip()


def somebody_elses_runs(project: Checkout) -> set[str]:
    """Runs of another checkout and of nobody's in our experiment, and two of a stranger's, one of them deleted."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    ours = client.get_experiment_by_name("histopipe-idc")
    assert ours
    theirs = client.create_experiment("theirs", (project.root / "theirs").as_uri())
    tags = {"dataset": "idc", "architecture": "cancernet"}
    deleted = client.create_run(theirs)
    client.delete_run(deleted.info.run_id)
    made = [
        client.create_run(ours.experiment_id, tags={**tags, "checkout": "elsewhere:/home/she/histopipe"}),
        client.create_run(ours.experiment_id, tags=tags),
        client.create_run(theirs, tags={**tags, "checkout": "elsewhere:/home/she/histopipe"}),
        deleted,
    ]
    return {run.info.run_id for run in made}


@pytest.fixture
def lived_in(checkout: Make) -> Iterator[tuple[Checkout, dict[str, str]]]:
    """A checkout with two committed trainings and, between them, one that was neither committed nor promoted."""
    project = checkout(promotion=LENIENT)
    project.dvc("repro")
    ids = {"first": run_id(project), "first commit": commit(project)}
    project.change(quick={"max_epochs": 1})
    project.dvc("repro", "train@idc-cancernet")
    ids |= {"between": run_id(project), "lost model": project.run("md5sum", "models/idc/cancernet/model.keras").stdout}
    project.change(seed=43)
    project.dvc("repro", "train@idc-cancernet")
    ids |= {"second": run_id(project), "second commit": commit(project)}
    yield project, ids


def test_only_what_nothing_refers_to_goes(lived_in: tuple[Checkout, dict[str, str]]) -> None:
    project, ids = lived_in
    lost = ids["lost model"].split()[0]
    others = somebody_elses_runs(project)
    part = temporary_path(project.root / "models/idc/cancernet", "part", 999999999)
    part.mkdir()
    (part / "model.keras").write_bytes(b"half")
    before, looks = content(project), client(project).get_registered_model(NAME).tags
    assert looks["anchor"] == "1" and [key for key in looks if key.startswith("look.")]

    young = lines_of(project)
    assert young["MLflow runs"][0] == "kept" and young["DVC cache"][0] == "kept"
    found = lines_of(project, "--older-than", "0d")
    assert found["MLflow runs"][0] == "garbage" and re.match(r"1 ", found["MLflow runs"][1])
    assert {found[what][0] for what in ("DVC cache", "DVC run-cache", "checkpoints", "half-written files")} == {
        "garbage"
    }
    assert content(project) == before  # a dry run looks, no more

    with FileLock(project.root / ".locks/train@idc-cancernet.lock"):
        lines_of(project, "--force", "--older-than", "0d", code=EXIT_BUSY)
    assert content(project) == before

    removal = project.start(sys.executable, "-m", "histopipe", "gc", "--force", "--older-than", "0d")
    deadline = time.monotonic() + 300
    while stages_of_runs(project)[ids["between"]] != "deleted":
        assert time.monotonic() < deadline and removal.poll() is None
        time.sleep(0.01)
    removal.send_signal(signal.SIGKILL)
    removal.wait(30)
    # what a commit names is whole at every moment
    assert "up to date" in project.dvc("status", "train@idc-cancernet").stdout
    lines_of(project, "--force", "--older-than", "0d")

    runs = stages_of_runs(project)
    assert {runs[ids["first"]], runs[ids["second"]]} == {"active"}
    assert others <= set(runs)
    assert client(project).get_registered_model(NAME).tags == looks
    assert lost not in objects_of(project) and not part.exists()
    lines_of(project, "--force", "--older-than", "0d")
    assert ids["between"] not in stages_of_runs(project)
    assert not list((project.root / "mlartifacts").rglob(ids["between"]))
    assert not lines_of(project, "--older-than", "0d")

    assert "up to date" in project.dvc("repro", "train@idc-cancernet").stdout
    loaded = "import mlflow; print(mlflow.pyfunc.load_model('models:/histopipe-idc@champion').metadata.run_id)"
    address = {"MLFLOW_TRACKING_URI": f"sqlite:///{project.root / 'mlflow.db'}"}
    champion = Checkout(project.root, {**project.environment, **address}).run(sys.executable, "-c", loaded)
    assert champion.stdout.split()[-1] == ids["first"]
    project.run("git", "checkout", "--quiet", ids["first commit"])
    project.dvc("checkout", "--force")
    assert run_id(project) == ids["first"]
    assert "up to date" in project.dvc("repro", "evaluate@idc-cancernet").stdout


def test_a_flow_that_runs_here_keeps_everything(checkout: Make, tmp_path: Path) -> None:
    project = checkout()
    failure = project.root / ".failures/train@idc-cancernet.json"
    failure.parent.mkdir()
    failure.write_text("{}")
    with servers.prefect(tmp_path, project.environment) as address:
        profiles = project.root / ".prefect/profiles.toml"
        profiles.parent.mkdir(exist_ok=True)
        profiles.write_text(f'active = "group"\n[profiles.group]\nPREFECT_API_URL = "{address}"\n')

        def ask(path: str, /, **question: Any) -> Any:
            answer = requests.post(f"{address}/{path}", json=question, timeout=60)
            answer.raise_for_status()
            return answer.json()

        project.run(sys.executable, "-m", "prefect", "--no-prompt", "work-pool", "create", "histopipe", "-t", "process")
        project.run(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "studies")
        here = ask("deployments/filter")[0]["id"]
        flow = ask("flows/", name="histopipe")["id"]
        there = ask("deployments/", name="there", flow_id=flow, path=str(tmp_path / "elsewhere"))["id"]
        runs = {where: ask(f"deployments/{where}/create_flow_run")["id"] for where in (here, there)}
        for run in runs.values():
            ask(f"flow_runs/{run}/set_state", state={"type": "RUNNING"}, force=True)
        chosen = ("--force", "--older-than", "0d", "--only", "files")
        lines_of(project, *chosen, code=EXIT_BUSY)
        ask(f"flow_runs/{runs[here]}/set_state", state={"type": "PENDING"}, force=True)  # a worker is starting it
        lines_of(project, *chosen, code=EXIT_BUSY)
        assert failure.exists()
        ask(f"flow_runs/{runs[here]}/set_state", state={"type": "COMPLETED"}, force=True)
        assert lines_of(project, *chosen)["reasons of failures"][0] == "removed"
        assert not failure.exists()
    lines_of(project, *chosen, code=2)  # who can't be asked may have a flow running


def test_a_cache_that_others_may_use_and_a_shallow_clone_lose_nothing(checkout: Make, tmp_path: Path) -> None:
    project = checkout()
    shared = tmp_path / "shared"
    project.dvc("config", "--local", "cache.dir", str(shared))
    (project.root / "own.bin").write_bytes(b"once")
    project.dvc("add", "own.bin")
    (project.root / "own.bin").unlink()
    (project.root / "own.bin.dvc").unlink()
    kept = sorted(shared.rglob("*"))
    assert lines_of(project, "--force", "--older-than", "0d", "--only", "dvc")["DVC cache"][0] == "kept"
    assert sorted(shared.rglob("*")) == kept
    project.dvc("config", "--local", "--unset", "cache.dir")
    (project.root / ".git/shallow").write_text(project.run("git", "rev-parse", "HEAD").stdout)
    (project.root / "own.bin").write_bytes(b"twice")
    project.dvc("add", "own.bin")
    (project.root / "own.bin.dvc").unlink()
    assert lines_of(project, "--force", "--older-than", "0d", "--only", "dvc", code=1)["dvc"][0] == "unknown"
    assert objects_of(project)
    (project.root / ".git/shallow").unlink()
    assert lines_of(project, "--force", "--older-than", "0d", "--only", "dvc")["DVC cache"][0] == "removed"
    assert not objects_of(project)


def forgotten(project: Checkout) -> Path:
    """An object of the cache that nothing names; what it held is in the remote too, where there is one."""
    (project.root / "own.bin").write_bytes(b"once")
    project.dvc("add", "own.bin")
    project.dvc("push", check=False)
    (project.root / "own.bin").unlink()
    (project.root / "own.bin.dvc").unlink()
    (name,) = objects_of(project)
    return History(Workspace(project.root), project.root / ".dvc/cache").object(name)


def name_it(project: Checkout, item: Path) -> Path:
    """Have dvc.lock name an object, for a stage that params.yaml doesn't list."""
    lock = project.root / "dvc.lock"
    out = f"    - path: models/gone/one/run.json\n      md5: {item.parent.name}{item.name}\n      size: 4\n"
    lock.write_text(f"schema: '2.0'\nstages:\n  train@gone-one:\n    cmd: 'true'\n    outs:\n{out}")
    return lock


def test_what_dvc_lock_has_come_to_name_since_it_was_listed_stays(checkout: Make) -> None:
    project = checkout()
    item = forgotten(project)
    workspace = Workspace(project.root)
    history = History(workspace, cache_folder(workspace))
    (line,) = unreferenced(history, Age.parse("0d"))
    assert line.count == 1 and line.removal
    lock = name_it(project, item)
    line.removal()
    assert item.exists()
    lock.unlink()
    line.removal()
    assert not item.exists()


def test_the_remote_is_not_cleaned_of_what_a_commit_needs_or_of_what_is_young(checkout: Make, tmp_path: Path) -> None:
    project = checkout()
    remote = tmp_path / "remote"
    project.dvc("remote", "add", "--default", "away", str(remote))
    item = forgotten(project)
    copy = remote / item.relative_to(project.root / ".dvc/cache")
    assert copy.exists()
    lock = name_it(project, item)
    chosen = ("--cloud", "--only", "files", "--force")
    state, why = lines_of(project, *chosen, "--older-than", "0d", code=1)["DVC remote"]
    assert state == "unknown" and "1 objects" in why
    lock.unlink()
    assert lines_of(project, *chosen, code=1)["DVC remote"][0] == "unknown"  # younger than 7 days
    assert item.exists() and copy.exists()
    assert lines_of(project, *chosen, "--older-than", "0d")["DVC remote"][0] == "removed"
    assert not copy.exists()
