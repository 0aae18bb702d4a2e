"""Deployments on a real Prefect server: registered, run by a worker, and by their schedule."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import requests
import yaml

import flows.watch
from benchmarks.checkouts import NO_FLOORS
from flows.serve import LASTING_LEASES
from histopipe.core.workspace import Workspace
from histopipe.inference.stage import predict
from histopipe.ingest.synthetic.archive import write_archive
from histopipe.ingest.synthetic.plan import SyntheticSlides
from tests.builders import servers
from tests.builders.archives import write_zip
from tests.builders.checkouts import Checkout
from tests.builders.faults import kill_with_children, trainers
from tests.builders.paths import ROOT
from tests.builders.served_models import give_profiles, new_cases, save_model
from tests.builders.servers import ask, free_port, running, wait_until

Make = Callable[..., Checkout]
Server = AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]
Mortal = tuple[Checkout, Callable[[], Server]]
DEPLOYED = {one["name"]: one for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
PATIENCE = 600.0  # seconds; a busy machine is slow, not broken


def grown_archive(small: Path, large: Path) -> None:
    """Two archives, of which the larger holds the smaller one's cases and some more."""
    write_archive(large, SyntheticSlides(cases=26, patches=1100, nested_copy=False))
    with zipfile.ZipFile(large) as content, zipfile.ZipFile(small, "w") as part:
        names = content.namelist()
        cases = sorted({name.split("/")[0] for name in names})[:20]
        for name in names:
            if name.split("/")[0] in cases:
                part.writestr(name, content.read(name))


def at_server(project: Checkout, server: str) -> Checkout:
    """The checkout with commands that talk to the server."""
    return Checkout(project.root, {**project.environment, "PREFECT_API_URL": server})


def prefect(project: Checkout, *arguments: str) -> str:
    return project.run(sys.executable, "-m", "prefect", "--no-prompt", *arguments).stdout


def in_checkout(project: Checkout, *command: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A command that runs until it is ended."""
    log = project.root.parent / "command.log"
    return running([sys.executable, "-m", *command], log, project.environment, project.root)


def finished(server: str, said: str, count: int) -> list[dict[str, Any]]:
    """Wait for that many runs of the flow `retrain` that ended with such words."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        runs = [run for run in ask(server, "flow_runs") if (run["state"]["message"] or "").startswith(said)]
        failed = [run["state"] for run in ask(server, "flow_runs") if run["state_type"] in ("FAILED", "CRASHED")]
        assert not failed, failed
        if len(runs) >= count:
            return runs
        time.sleep(1)
    pytest.fail(f"no {count} runs said {said!r}: {[(run['name'], run['state']) for run in ask(server, 'flow_runs')]}")


def runs_in_mlflow(project: Checkout, experiment: str = "histopipe-idc") -> list[Any]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    return list(mlflow.search_runs(experiment_names=[experiment], output_format="list"))


def split_of(project: Checkout) -> pd.Series:
    return pd.read_csv(project.root / "data/splits/idc.csv", dtype=str).set_index("case_id")["split"]


def deploy(project: Checkout) -> None:
    prefect(project, "work-pool", "create", "histopipe", "--type", "process")
    prefect(project, "deploy", "--all")


def test_deploying_registers_everything_and_limits_trainings(checkout: Make, server: str) -> None:
    project = at_server(checkout(), server)
    deploy(project)
    found = {one["name"]: one for one in ask(server, "deployments")}
    assert set(found) == set(DEPLOYED)
    for name, one in found.items():
        described = DEPLOYED[name]
        assert one["global_concurrency_limit"]["limit"] == described["concurrency_limit"]["limit"]
        assert one["concurrency_options"]["collision_strategy"] == described["concurrency_limit"]["collision_strategy"]
        asked = [schedule["cron"] for schedule in described.get("schedules", [])]
        assert [schedule["schedule"]["cron"] for schedule in one["schedules"]] == asked
        properties = one["parameter_openapi_schema"]["properties"]
        assert properties and all(field.get("description") for field in properties.values()), name
    fields = found["pipeline"]["parameter_openapi_schema"]["properties"]  # which the form offers as choices
    assert {name: field["items"]["enum"] for name, field in fields.items()} == {
        "datasets": ["idc"],
        "architectures": ["cancernet"],
    }
    assert requests.get(f"{server}/concurrency_limits/tag/gpu", timeout=30).json()["concurrency_limit"] == 1
    limit = project.run(sys.executable, "-m", "flows.limits", "--gpus", "3").stdout
    assert limit == "at most 3 tasks tagged gpu at one time\n"
    again = project.run(sys.executable, "-m", "flows.limits").stdout
    assert again == limit  # what was set stays
    (watch,) = ask(server, "automations")
    assert watch["name"] == flows.watch.NAME and watch["enabled"] and watch["trigger"]["within"] == 600


EVERY_MINUTE = ("--cron", "* * * * *")


@pytest.mark.parametrize(
    "schedule", [("--interval", "15"), pytest.param(EVERY_MINUTE, marks=pytest.mark.long)], ids=["short", "minute"]
)
def test_a_schedule_trains_then_rests_and_retrains_when_the_source_gains_cases(
    checkout: Make, server: str, tmp_path: Path, schedule: tuple[str, str]
) -> None:
    """Deployed from one checkout, run by the worker of another, at another path."""
    source, larger = tmp_path / "slides.zip", tmp_path / "larger.zip"
    grown_archive(source, larger)
    project = at_server(checkout(idc={"source": str(source), "exclude_cases": []}), server)
    deploying = at_server(checkout(), server)
    deploy(deploying)
    shutil.rmtree(deploying.root)
    prefect(project, "deployment", "schedule", "create", "retrain/retrain", *schedule)
    with in_checkout(project, "prefect", "worker", "start", "--pool", "histopipe"):
        finished(server, "Retrained. idc: first seen", 1)
        assert len(runs_in_mlflow(project)) == 1
        before = split_of(project)
        finished(server, "No source has changed since it was last used", 1)
        assert len(runs_in_mlflow(project)) == 1
        larger.replace(source)
        finished(server, "Retrained. idc: changed (", 1)
    assert len(runs_in_mlflow(project)) == 2
    after = split_of(project)
    assert len(before) == 20 and len(after) == 26
    pd.testing.assert_series_equal(after[before.index], before)
    growth = next(
        one for one in ask(server, "artifacts") if one["key"] == "growth-idc" and '"before": 0' not in one["data"]
    )
    assert growth["type"] == "table"


def served_folder(project: Checkout, folder: Path) -> Path:
    """A served model of its own that carries the profiles of drawn cases."""
    known = folder / "known.zip"
    write_archive(known, SyntheticSlides(cases=20, patches=900, nested_copy=False))
    save_model(folder / "served")
    predict([known], str(folder / "served"), "idc", folder / "known", Workspace(project.root))
    give_profiles(folder / "served", folder / "known")
    return folder / "served"


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)])
def test_one_command_serves_them_all(checkout: Make, tmp_path: Path, whole: bool) -> None:
    """The whole of it trains the champion that grades; else a model of its own grades, as the drift is told by."""
    port = free_port()
    server = f"http://127.0.0.1:{port}/api"
    plain = checkout(promotion=NO_FLOORS)
    project = at_server(plain, server)
    model = "models:/histopipe-idc@champion" if whole else str(served_folder(project, tmp_path))
    with in_checkout(plain, "flows.serve", "--port", str(port)) as serving:  # starts the server too
        wait_until(f"{server}/health", serving)
        deadline = time.monotonic() + PATIENCE
        while len(ask(server, "deployments")) < len(DEPLOYED) and time.monotonic() < deadline:
            time.sleep(0.5)
        pages = requests.get(server.replace("/api", "/ui-settings"), timeout=30).json()
        assert pages["api_url"] == server
        taken = plain.run(sys.executable, "-m", "flows.serve", "--port", str(port), check=False)
        assert taken.returncode == 2 and f"port {port} is taken" in taken.stderr
        if whole:
            prefect(project, "deployment", "run", "retrain/retrain", "--param", 'architectures=["cancernet"]')
            finished(server, "Retrained. idc: first seen", 1)
        new = tmp_path / "new.zip"
        write_archive(new, SyntheticSlides(cases=3, patches=150, nested_copy=False, seed=7))
        asked = [f'inputs=["{new}"]', "out=scores/new", *([] if whole else [f"model={model}"])]
        prefect(project, "deployment", "run", "score/score", *(part for one in asked for part in ("--param", one)))
        finished(server, "Predictions are in", 1)
        prefect(
            project, "deployment", "run", "monitor/monitor", "--param", "scores=scores/new", "--param", "out=drift/new"
        )
        finished(server, "No drift in 3 new cases of idc: ", 1)
        shown = {one["key"]: one["type"] for one in ask(server, "artifacts")}
        assert {one["name"] for one in ask(server, "deployments")} == set(DEPLOYED)
        serving.send_signal(signal.SIGINT)  # Ctrl-C
        assert serving.wait(60) == 0
    with servers.prefect(tmp_path, plain.environment) as server:  # on the same database
        assert all(one["paused"] for one in ask(server, "deployments"))  # nobody runs them any more
    table = pd.read_parquet(project.root / "scores/new/predictions.parquet")
    assert len(table) == 150 and table["case_id"].nunique() == 3
    (run,) = runs_in_mlflow(project, "histopipe-idc-scores")
    assert run.data.metrics["patches"] == 150 and run.data.tags["model"] == model
    (run,) = runs_in_mlflow(project, "histopipe-idc-drift")
    assert run.data.tags["verdict"] == "none" and "brightness/distance" in run.data.metrics
    assert shown["drift-idc"] == "markdown" and shown["drift-figure-idc"] == "image"
    assert shown["score-idc"] == "table" and shown["score-map-idc-0"] == "image"


HOLDING = """
import sys, time
from pathlib import Path
from prefect import flow, task

@task(tags=["gpu"])
def hold():
    Path("holds").touch()
    while not Path("let-go").exists():
        time.sleep(0.2)

@flow
def holding():
    hold()
"""


SERVED = """
if __name__ == "__main__":
    holding.serve("served", tags=["histopipe"])
"""


def slots_taken(server: str) -> int:
    """How many tasks the server takes to be holding the limit on trainings."""
    limits = requests.post(f"{server}/v2/concurrency_limits/filter", json={}, timeout=30).json()
    (limit,) = [one for one in limits if one["name"] == "tag:gpu"]
    return int(limit["active_slots"])


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture
def mortal(checkout: Make, tmp_path: Path) -> Mortal:
    """A checkout whose server, at one address, is to be killed and started anew."""
    port = free_port()
    project = at_server(checkout(), f"http://127.0.0.1:{port}/api")
    (project.root / "holding.py").write_text(f"{HOLDING}\nholding()\n")
    surroundings = {**project.environment, **LASTING_LEASES}
    return project, lambda: servers.prefect_process(tmp_path, surroundings, port)


def holding(project: Checkout) -> subprocess.Popen[str]:
    """A flow that has the limit on trainings, and holds it."""
    project.run(sys.executable, "-m", "flows.limits", "--gpus", "1")
    flow = project.start(sys.executable, "holding.py")
    until((project.root / "holds").exists)
    return flow


def kill(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()


def test_what_a_run_holds_of_a_limit_outlasts_a_killed_server(mortal: Mortal) -> None:
    project, start = mortal
    with start() as (server, process):
        flow = holding(project)
        assert slots_taken(server) == 1
        kill(process)
    with start() as (server, _):
        assert slots_taken(server) == 1
        (project.root / "let-go").touch()
        said, _ = flow.communicate(timeout=PATIENCE)
        assert flow.returncode == 0, said
        until(lambda: slots_taken(server) == 0)


@pytest.mark.long
def test_what_a_run_that_was_killed_with_the_server_held_comes_back(mortal: Mortal) -> None:
    project, start = mortal
    with start() as (_, process):
        flow = holding(project)
        kill(process)
        kill(flow)
    with start() as (server, _):
        until(lambda: slots_taken(server) == 0)
        (project.root / "let-go").touch()
        project.run(sys.executable, "holding.py")


@pytest.mark.long
def test_a_run_whose_machine_died_is_marked_as_crashed_and_a_busy_one_is_not(checkout: Make, server: str) -> None:
    project = at_server(checkout(), server)
    project = Checkout(project.root, {**project.environment, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"})
    for after in (("--after", "900"), ("--after", "100"), ()):  # what was set last stays
        project.run(sys.executable, "-m", "flows.watch", *after)
    refused = project.run(sys.executable, "-m", "flows.watch", "--after", "90", check=False)
    assert refused.returncode == 2 and "runs give a sign every 30 s: --after wants more than 90 s" in refused.stderr
    (project.root / "served.py").write_text(f"{HOLDING}\n{SERVED}")
    machine = project.start(sys.executable, "served.py")
    until(lambda: bool(ask(server, "deployments")))
    prefect(project, "deployment", "run", "holding/served")
    until((project.root / "holds").exists)
    time.sleep(130)
    assert [run["state_type"] for run in ask(server, "flow_runs")] == ["RUNNING"]
    kill_with_children(psutil.Process(machine.pid))
    until(lambda: [run["state_type"] for run in ask(server, "flow_runs")] == ["CRASHED"])
    (run,) = ask(server, "flow_runs")
    assert run["state"]["message"] == "No sign of life for 0:01:40: run it again"


@pytest.mark.long
def test_a_pipeline_outlasts_a_killed_server(checkout: Make, tmp_path: Path) -> None:
    port = free_port()
    longer = {"max_epochs": 8, "max_patches": 320, "max_image_size": 24}
    project = at_server(checkout(quick=longer, promotion=NO_FLOORS), f"http://127.0.0.1:{port}/api")
    surroundings = {**project.environment, **LASTING_LEASES}
    with servers.prefect_process(tmp_path, surroundings, port) as (server, process):
        project.run(sys.executable, "-m", "flows.limits", "--gpus", "1")
        flow = project.start(sys.executable, "-m", "flows.pipeline")
        assert flow.stdout
        for line in flow.stdout:
            if "epoch 2/8" in line:
                break
        process.kill()
        process.wait()
    with servers.prefect_process(tmp_path, surroundings, port) as (server, _):
        said, _ = flow.communicate(timeout=2 * PATIENCE)
        assert flow.returncode == 0, said[-3000:]
        until(lambda: slots_taken(server) == 0)
        assert [run["state_type"] for run in ask(server, "flow_runs")] == ["COMPLETED"]
    (run,) = runs_in_mlflow(project)
    assert run.info.status == "FINISHED"


def stalled(project: Checkout) -> psutil.Process | None:
    """The training, halted by this; None while there is none."""
    for process in trainers(project):
        process.suspend()
        return process
    return None


@pytest.mark.long
def test_a_training_that_hangs_is_ended_and_the_retry_goes_on(checkout: Make) -> None:
    quick = {"max_epochs": 6, "max_patches": 320, "max_image_size": 24}
    project = checkout(quick=quick, promotion=NO_FLOORS, flow={"timeouts": {"train": 120 / 3600}})
    flow = project.start(sys.executable, "-m", "flows.pipeline")
    assert flow.stdout
    said = []
    halted = None
    for line in flow.stdout:
        said.append(line)
        if "epoch 2/6" in line and not halted:
            halted = stalled(project)
    assert flow.wait(PATIENCE) == 0, "".join(said[-60:])
    assert halted and not halted.is_running()
    assert "train@idc-cancernet was ended after 0.0333333 hours, its flow.timeouts.train in params.yaml" in "".join(
        said
    )
    assert sum("epoch 1/6" in line for line in said) == 1  # the retry went on
    (run,) = runs_in_mlflow(project)
    assert run.info.status == "FINISHED"


def test_serving_without_a_server_says_what_to_do(checkout: Make) -> None:
    project = at_server(checkout(), "http://127.0.0.1:9/api")
    done = project.run(sys.executable, "-c", "import flows.serve as s; s.PATIENCE = 1; s.main()", check=False)
    assert done.returncode == 2
    said = "histopipe: no Prefect server answers at http://127.0.0.1:9/api: start one, or set PREFECT_API_URL"
    assert done.stderr.strip().splitlines()[-1].startswith(said)


def test_a_missing_source_ends_with_one_line_after_the_other_data_set_had_its_turn(checkout: Make) -> None:
    project = checkout(datasets=["idc", "malaria"], idc={"source": "gone.zip", "exclude_cases": []})
    write_zip(project.root / "cells.zip", {"notes.txt": b"no cell at all"})
    project.change(malaria={"source": "cells.zip", "exclude_cases": []})
    done = project.run(sys.executable, "-m", "flows.retrain", check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("histopipe: ")]
    assert said.startswith("histopipe: locate@idc: ") and "gone.zip" in said
    assert (project.root / ".failures/ingest@malaria.json").exists()


@pytest.mark.long
def test_a_missing_source_ends_with_one_line_after_the_other_data_sets(checkout: Make) -> None:
    project = checkout(datasets=["idc", "malaria"], idc={"source": "gone.zip", "exclude_cases": []})
    project.change(synthetic={"cases": 20, "patches": 300, "nested_copy": False})
    done = project.run(sys.executable, "-m", "flows.retrain", check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("histopipe: ")]
    assert said.startswith("histopipe: locate@idc: ") and "gone.zip" in said
    assert (project.root / "models/malaria/cancernet/model.keras").exists()
    assert (project.root / ".used-sources/malaria.json").exists()
    assert not (project.root / ".used-sources/idc.json").exists()


def test_a_grading_that_fails_ends_with_one_line(checkout: Make) -> None:
    done = checkout().run(sys.executable, "-m", "flows.score", "idc", "gone.zip", check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("histopipe: ")]
    assert said.startswith("histopipe: predict@idc-")


def automation_of_docs(deployment: str) -> dict[str, Any]:
    """The automation that docs/monitoring.md shows, for the deployment of that id."""
    text = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    shown = text.partition("```yaml\n")[2].partition("```")[0]
    return dict(yaml.safe_load(shown.replace("ID-OF-SCORE", deployment)))


def test_drift_fails_the_run_and_an_automation_reacts(checkout: Make, server: str, tmp_path: Path) -> None:
    project = at_server(checkout(), server)
    folder = tmp_path / "served"
    save_model(folder)
    known, dark = write_zip(tmp_path / "known.zip", new_cases(1, 40, 10000)), new_cases(2, 4, 20000, factor=0.6)
    predict([known], str(folder), "idc", tmp_path / "known", Workspace(project.root))
    give_profiles(folder, tmp_path / "known")
    deploy(project)
    ids = {one["name"]: one["id"] for one in ask(server, "deployments")}
    made = requests.post(f"{server}/automations/", json=automation_of_docs(ids["score"]), timeout=30)
    assert made.status_code == 201, made.text
    new = write_zip(tmp_path / "dark.zip", dark)
    asked = [f'inputs=["{new}"]', f"model={folder}", "out=drift/dark"]
    with in_checkout(project, "prefect", "worker", "start", "--pool", "histopipe"):
        parameters = [part for one in asked for part in ("--param", one)]
        prefect(project, "deployment", "run", "monitor/monitor", *parameters)
        deadline = time.monotonic() + PATIENCE
        while not (paused := requests.get(f"{server}/deployments/{ids['score']}", timeout=30).json()["paused"]):
            assert time.monotonic() < deadline, [run["state"] for run in ask(server, "flow_runs")]
            time.sleep(1)
    assert paused
    (run,) = [one for one in ask(server, "flow_runs") if one["state_type"] != "SCHEDULED"]  # nightly ones to come
    assert run["state_type"] == "FAILED" and run["state"]["message"].startswith("Drift in 4 new cases of idc: ")
    assert (project.root / "drift/dark/drift.md").exists()
    assert {one["key"] for one in ask(server, "artifacts")} == {"drift-idc", "drift-figure-idc"}
