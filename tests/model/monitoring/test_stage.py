"""`histopipe monitor` with a real model: what it finds, says and writes, and how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from histopipe.cli import main
from histopipe.core.outputs.claims import MARKER, claim_folder
from histopipe.core.workspace import Workspace
from histopipe.inference.stage import predict
from tests.builders.archives import write_zip
from tests.builders.paths import ROOT
from tests.builders.served_models import give_profiles, new_cases, save_model


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the profiles of its cases, and new cases like these and darker ones."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(ROOT / "params.yaml", folder)
    save_model(folder / "model")
    reference = write_zip(folder / "reference.zip", new_cases(1, 40, 10000))
    predict([reference], str(folder / "model"), "idc", folder / "known", Workspace(folder))
    give_profiles(folder / "model", folder / "known")
    write_zip(folder / "alike.zip", new_cases(2, 4, 20000))
    write_zip(folder / "dark.zip", new_cases(2, 4, 20000, factor=0.6))
    return folder


@pytest.fixture
def project(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["monitor", "idc", *map(str, arguments)])
    return done.exit_code, (done.stderr if done.exit_code == 2 else done.stdout).strip().splitlines()[-1]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_new_cases_like_the_reference_end_well_and_darker_ones_with_1(project: Path) -> None:
    code, said = run("alike.zip", "--model", "model", "--out", "drift/alike")
    assert code == 0 and said.startswith("No drift in 4 new cases of idc: "), said
    code, said = run("dark.zip", "--model", "model", "--out", "drift/dark")
    assert code == 1 and said.startswith("Drift in 4 new cases of idc: brightness by "), said
    found = read(project / "drift/dark/drift.json")
    assert found["verdict"] == "drift" and found["patches"] == 32
    assert {row["feature"] for row in found["features"] if row["drifted"]} >= {"brightness"}
    assert found["said"] in (project / "drift/dark/drift.md").read_text()
    assert Image.open(project / "drift/dark/drift.png").size[0] > 1000
    assert len(pd.read_csv(project / "drift/dark/cases.csv")) == 4
    assert len(pd.read_parquet(project / "drift/dark/scores/predictions.parquet")) == 32


def test_scores_give_what_their_patches_give(project: Path) -> None:
    predict([project / "dark.zip"], "model", "idc", project / "scores/dark", Workspace(project))
    run("dark.zip", "--model", "model", "--out", "drift/patches")
    code, _ = run("--scores", "scores/dark", "--out", "drift/scores", "--exit-zero")
    assert code == 0
    assert read(project / "drift/scores/drift.json") == read(project / "drift/patches/drift.json")


@pytest.mark.parametrize("way", ["archive", "folder"])
def test_a_darker_scan_of_cells_is_found_though_all_lie_in_one_folder(project: Path, way: str) -> None:
    """Thirty patients of malaria's own names: one case as long as only IDC's names were known, and `undecided`."""
    point = json.loads((project / "model/artifacts/operating_point.json").read_text())
    named = {"data_set": "malaria", "positive_class": "Parasitized", "negative_class": "Uninfected"}
    (project / "model/artifacts/operating_point.json").write_text(json.dumps(point | named))
    cells = {
        f"cell_images/{('Parasitized', 'Uninfected')[cell % 2]}/C{7 + cell // 8}P1ThinF_IMG_1_cell_{cell}.png": data
        for cell, data in enumerate(new_cases(2, 30, 20000, factor=0.6).values())
    }
    inputs = write_zip(project / "cells.zip", cells)
    if way == "folder":
        shutil.unpack_archive(inputs, inputs := project / "cells")
    done = CliRunner().invoke(main, ["monitor", "malaria", str(inputs), "--model", "model", "--out", "drift/cells"])
    assert done.exit_code == 1 and "Drift in 30 new cases of malaria: brightness by " in done.stdout, done.output


def other_model(project: Path) -> None:
    described = yaml.safe_load((project / "model/MLmodel").read_text())
    (project / "model/MLmodel").write_text(yaml.safe_dump(described | {"model_id": "m-other"}))


def without_reference(project: Path) -> None:
    described = yaml.safe_load((project / "model/MLmodel").read_text())
    del described["flavors"]["python_function"]["artifacts"]["reference"]
    (project / "model/MLmodel").write_text(yaml.safe_dump(described))


def without_colours(project: Path) -> None:
    path = project / "scores/new/predictions.parquet"
    pd.read_parquet(path)[["file", "case_id", "probability"]].to_parquet(path)


@pytest.mark.parametrize(
    ("break_it", "arguments", "complaint"),
    [
        (other_model, ["--scores", "scores/new"], "was predicted by another model than model is now"),
        (without_reference, ["--scores", "scores/new"], "model has no reference, since an early version evaluated it"),
        (without_reference, ["alike.zip", "--model", "model"], "model has no reference, since an early version"),
        (without_colours, ["--scores", "scores/new"], "has no colour statistics: predict the patches again"),
        (lambda project: None, ["--scores", "known/maps"], "is no folder of `histopipe predict`"),
        (lambda project: None, [], "name either new patches or, with --scores, a folder"),
        (lambda project: None, ["gone.zip", "--model", "model"], "gone.zip is missing"),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_earlier_report(
    project: Path, break_it: Callable[[Path], None], arguments: list[str], complaint: str
) -> None:
    predict([project / "alike.zip"], "model", "idc", project / "scores/new", Workspace(project))
    with claim_folder(project / "out", "monitor", {}).written() as folder:
        (folder / "earlier.txt").write_text("kept")
    break_it(project)
    code, said = run(*arguments, "--out", "out", "--overwrite")
    assert code == 2 and said.startswith("histopipe: ") and complaint in said
    assert sorted(path.name for path in (project / "out").iterdir()) == [MARKER, "earlier.txt"]
    (project / "out/thesis.txt").write_text("mine")
    code, said = run(*arguments, "--out", "out", "--overwrite")
    assert code == 2 and ("out holds thesis.txt" in said or not arguments)


def test_a_report_does_not_replace_the_scores_that_it_is_about(project: Path) -> None:
    predict([project / "alike.zip"], "model", "idc", project / "scores/new", Workspace(project))
    for out in ("scores/new", "scores"):
        code, said = run("--scores", "scores/new", "--out", out)
        assert code == 2 and "contains the predictions" in said
    assert (project / "scores/new/predictions.parquet").exists()
