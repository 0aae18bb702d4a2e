"""`histopipe doctor`: a sound checkout, and one with every kind of fault."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable

from tests.builders.checkouts import Checkout

Make = Callable[..., Checkout]


def examined(project: Checkout, **surroundings: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The command's exit code, and by what was looked at, the state and the rest of the line."""
    wide = Checkout(project.root, {**project.environment, "COLUMNS": "300", **surroundings})
    done = wide.histopipe("doctor", check=False)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    lines = re.findall(r"^ *(ok|warning|error) {2,}(\S(?:.*?\S)?) {2,}(.*?) *$", done.stdout, re.MULTILINE)
    return done.returncode, {what: (state, said) for state, what, said in lines}


def test_a_checkout_is_examined_from_the_machine_to_the_pixels(checkout: Make) -> None:
    project = checkout()
    _, found = examined(project)
    assert found["MLflow"][1].startswith("no run yet")
    assert found["store of idc"] == ("ok", "none yet")
    project.dvc("repro", "ingest@idc")
    code, found = examined(project)
    assert code == (1 if any(state == "warning" for state, _ in found.values()) else 0)
    assert {state for state, _ in found.values()} <= {"ok", "warning"}
    assert found["store of idc"] == ("ok", "900 patches, all as ingested")
    assert found["DVC"] == ("ok", "3 stages recorded; no remote, results stay on this machine")
    assert found["packages"][0] == "ok"

    shard = project.root / "data/store/idc/patches-00000.npy"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    lock = project.root / "requirements.lock"
    lock.write_text(re.sub(r"^numpy==.*$", "numpy==0.0.1", lock.read_text(), flags=re.MULTILINE))
    project.dvc("remote", "add", "--default", "gone", "s3://no-such-place/dvc")
    nobody = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PREFECT_API_URL": "http://user:secret@127.0.0.1:9/api"}
    code, found = examined(project, **nobody)
    assert code == 2
    assert found["store of idc"][0] == "error"
    assert found["store of idc"][1].startswith("1 of 900 patches differ from the index, in patches-00000.npy")
    assert found["packages"][0] == "warning" and "(not 0.0.1)" in found["packages"][1]
    assert found["MLflow"][0] == "error" and "no MLflow server answers" in found["MLflow"][1]
    assert found["Prefect"][0] == "error" and "no server answers at http://127.0.0.1:9/api" in found["Prefect"][1]
    assert found["DVC"][0] == "error" and "remote gone: " in found["DVC"][1]
    assert "secret" not in str(found)

    project.dvc("checkout", "--force", "data/store/idc")  # the remedy that the table names
    assert examined(project)[1]["store of idc"] == ("ok", "900 patches, all as ingested")


def test_unreadable_parameters_are_one_line(checkout: Make) -> None:
    project = checkout()
    project.change(sead=1)
    code, found = examined(project)
    assert code == 2
    assert found["parameters"][0] == "error" and "sead" in found["parameters"][1]


def test_what_a_killed_training_left_running_is_named(checkout: Make) -> None:
    project = checkout(quick={"max_epochs": 30, "max_patches": 320, "max_image_size": 24})
    project.dvc("repro", "split@idc", "weights@cancernet")
    training = project.start(sys.executable, "-m", "histopipe", "train", "idc", "cancernet")
    assert training.stdout
    for line in training.stdout:
        if "epoch 2/30" in line:
            break
    assert examined(project)[1]["runs"] == ("ok", "1 in progress")
    training.send_signal(signal.SIGKILL)
    training.wait(30)
    state, said = examined(project)[1]["runs"]
    assert state == "warning" and said.startswith("marked as running, but nothing trains: idc cancernet (")
