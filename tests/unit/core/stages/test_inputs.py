"""What a stage reads must be the same when it ends: else DVC would record its result as made from something else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from histopipe.cli import main
from histopipe.core.errors import ChangedInputError, HistopipeError, ParamsError
from histopipe.core.params import read_params
from histopipe.core.stages import inputs as stage_inputs
from histopipe.core.stages.inputs import StageInputs, read_declaration, require_unchanged_inputs
from histopipe.core.stages.running import read_failure, running
from histopipe.core.workspace import Workspace
from histopipe.data.splitting import stage as splitting
from histopipe.ingest.stage import ingest
from tests.builders.archives import idc_members, write_zip
from tests.builders.paths import ROOT

TRAIN = "train@idc-cancernet"
INPUTS = {
    "data/splits/idc.csv": "case_id,split\n8863,train\n",
    "data/store/idc/index.parquet": "index",
    "data/store/idc/patches-00000.npy": "pixels",
    "data/weights/cancernet/weights.json": "{}",
    "histopipe/training/loop.py": "pass\n",
    "requirements.lock": "keras==3\n",
}


@pytest.fixture
def checkout(workspace: Workspace) -> Workspace:
    """A checkout with what a training reads, settled some time ago."""
    shutil.copy(ROOT / "dvc.yaml", workspace.root)
    for name, text in INPUTS.items():
        path = workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (time.time() - 60, time.time() - 60))
    return workspace


def edit(workspace: Workspace, recipe: str, **values: object) -> None:
    content = yaml.safe_load(workspace.params.read_text())
    content["recipes"][recipe] |= values
    workspace.params.write_text(yaml.safe_dump(content, sort_keys=False))


def test_an_edited_parameter_is_named_with_both_values(checkout: Workspace) -> None:
    message = r"recipes.cancernet.epochs \(40 to 60\) in params.yaml changed"
    with pytest.raises(ChangedInputError, match=message), running(TRAIN, checkout) as inputs:
        edit(checkout, "cancernet", epochs=60)
        assert read_params(checkout.params, inputs.params_text).recipe("cancernet").epochs == 40
    reason = read_failure(TRAIN, checkout)
    assert reason is not None
    assert (reason["kind"], "\n" in reason["message"]) == ("bad_input", False)  # tasks don't train it all again


@pytest.mark.parametrize("name", INPUTS)
def test_each_file_that_is_read_counts(checkout: Workspace, name: str) -> None:
    path = checkout.root / name
    with pytest.raises(ChangedInputError, match=f"{name} changed"), running(TRAIN, checkout):
        path.write_text(path.read_text()[:-1] + "~")  # of the same size


def test_files_that_come_and_go_count(checkout: Workspace) -> None:
    with pytest.raises(ChangedInputError, match=r"patches-00001\.npy appeared"), running(TRAIN, checkout):
        (checkout.store("idc") / "patches-00001.npy").write_text("more")
    with pytest.raises(ChangedInputError, match=r"patches-00001\.npy was removed"), running(TRAIN, checkout):
        (checkout.store("idc") / "patches-00001.npy").unlink()
    with pytest.raises(ChangedInputError, match=r"idc\.csv changed"), running(TRAIN, checkout):
        checkout.split("idc").unlink()


def rewrite(path: Path) -> None:
    """The same content in a new file, as `git checkout` there and back leaves it."""
    text = path.read_text()
    path.unlink()
    path.write_text(text)


HARMLESS: dict[str, Callable[[Workspace], object]] = {
    "another recipe": lambda w: edit(w, "resnet", epochs=3),
    "a comment": lambda w: w.params.write_text("# mine\n" + w.params.read_text()),
    "the list of architectures": lambda w: w.params.write_text(
        w.params.read_text().replace("architectures: [cancernet, ", "architectures: [")
    ),
    "a touch": lambda w: [os.utime(w.root / name) for name in INPUTS],
    "the same content again": lambda w: [rewrite(w.root / name) for name in INPUTS],
    "an unread file": lambda w: (w.root / "README.md").write_text("else"),
    "an editor's file": lambda w: (w.root / "histopipe/training/.loop.py.swp").write_text("half"),
    "a compiled module": lambda w: (w.root / "histopipe/training/__pycache__").mkdir(),
    "the stages' definition": lambda w: (w.root / "dvc.yaml").write_text("stages: {}"),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_a_stage_does_not_read_may_change(checkout: Workspace, what: str) -> None:
    with running(TRAIN, checkout):
        HARMLESS[what](checkout)
        require_unchanged_inputs()


def test_what_changed_and_came_back_is_no_change(checkout: Workspace) -> None:
    with running(TRAIN, checkout) as inputs:
        before = checkout.params.read_text()
        edit(checkout, "cancernet", epochs=60)
        checkout.split("idc").write_text("case_id,split\n8863,test\n")
        assert inputs.change()
        checkout.params.write_text(before)
        checkout.split("idc").write_text(INPUTS["data/splits/idc.csv"])


def record_in_dvc(workspace: Workspace, folder: str) -> None:
    """Note a folder's files as DVC does."""
    files = sorted((workspace.root / folder).iterdir())
    listing = json.dumps([{"md5": hashlib.md5(f.read_bytes()).hexdigest(), "relpath": f.name} for f in files])
    digest = f"{hashlib.md5(listing.encode()).hexdigest()}.dir"
    path = workspace.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True)
    path.write_text(listing)
    lock = {"stages": {"ingest@idc": {"outs": [{"path": folder, "md5": digest}]}}}
    workspace.dvc_lock.write_text(yaml.safe_dump(lock))


def test_large_files_are_compared_with_what_dvc_recorded(checkout: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_inputs, "LARGE", 5)  # longer than the index: only the pixels aren't read through
    pixels = checkout.store("idc") / "patches-00000.npy"
    with pytest.raises(ChangedInputError, match="npy changed"), running(TRAIN, checkout):
        os.utime(pixels)  # nothing tells it from an edit
    record_in_dvc(checkout, "data/store/idc")
    with running(TRAIN, checkout):
        os.utime(pixels)
        rewrite(pixels)
    with pytest.raises(ChangedInputError, match="npy changed"), running(TRAIN, checkout):
        pixels.write_text("pixelS")
    with pytest.raises(ChangedInputError, match="npy changed"), running(TRAIN, checkout):
        rewrite(pixels)  # it was not as recorded, and may have changed twice


def test_variants_and_trials_read_what_their_training_reads(checkout: Workspace) -> None:
    train, trial = read_declaration(TRAIN, checkout), read_declaration("trial@idc-cancernet-0", checkout)
    assert trial == replace(train, keys=[*train.keys, "search.cancernet"])
    assert "recipes.cancernet" in train.keys
    split = read_declaration("split_variant@idc-cancernet-fold-3", checkout)  # though `studies.variants` is empty
    assert "data/splits/idc.folds.csv" in split.paths
    fold = read_declaration("train_variant@idc-cancernet-fold-3", checkout)
    assert "studies/idc/cancernet/fold-3/split.csv" in fold.paths
    assert "seed" not in fold.keys, "a variant's own stands in the file that its split left"
    assert not any("${" in name for name in (*split.paths, *split.keys, *fold.paths, *fold.keys))
    assert not read_declaration("predict@idc-x", checkout).paths


def test_a_dvc_yaml_that_is_none_is_one_line(checkout: Workspace) -> None:
    (checkout.root / "dvc.yaml").write_text("<<<<<<< mine\n")
    with pytest.raises(HistopipeError, match=r"dvc.yaml is not valid: run `git checkout dvc.yaml`"):
        StageInputs.record(TRAIN, checkout)


def test_a_split_whose_seed_changes_meanwhile_writes_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "dvc.yaml", workspace.root)
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=12, patches=12))
    ingest("idc", read_params(workspace.params), workspace)
    monkeypatch.chdir(workspace.root)
    assert CliRunner().invoke(main, ["split", "idc"], prog_name="histopipe").exit_code == 0
    before = {path: path.read_bytes() for path in (workspace.root / "data/splits").iterdir()}
    real = splitting.summarise

    def edits(*arguments: object) -> object:
        workspace.params.write_text(workspace.params.read_text().replace("seed: 42", "seed: 43"))
        return real(*arguments)  # type: ignore[arg-type]

    workspace.params.write_text(workspace.params.read_text().replace("test: 0.15", "test: 0.25"))
    workspace.params.write_text(workspace.params.read_text().replace("train: 0.70", "train: 0.60"))
    monkeypatch.setattr(splitting, "summarise", edits)
    done = CliRunner().invoke(main, ["split", "idc"], prog_name="histopipe")
    assert done.exit_code == 2
    assert "seed (42 to 43) in params.yaml changed while it ran" in done.output
    assert {path: path.read_bytes() for path in (workspace.root / "data/splits").iterdir()} == before


@pytest.mark.parametrize("name", ["what?", "a{b}", "{", "new\nline"])
def test_a_checkout_under_a_name_that_nothing_can_work_in_is_one_line(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    (root / "params.yaml").write_text("")
    with pytest.raises(ParamsError, match="rename the folder") as problem:
        Workspace.find(root)
    assert "\n" not in str(problem.value)
