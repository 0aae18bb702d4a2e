"""A checkout of an earlier version, upgraded to this one: its champion serves on, and a line says what follows."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks.checkouts import change_params, commit_all, copy_project, environment
from histopipe.ingest.synthetic.archive import write_archive
from histopipe.ingest.synthetic.plan import SyntheticSlides
from tests.builders.checkouts import SMALL, Checkout
from tests.builders.paths import ROOT
from tests.builders.registry import NAME, client

EARLIER = "3c314bd25c83f6a902239ab36e1f5b15d8b57187"  # the last one before the library was arranged in layers
LENIENT = {"min_cases": 1, "max_calibration_error": 1, "min_sensitivity": 0}  # the floors that there were


def of_earlier_version(root: Path) -> Checkout:
    """A small checkout of the earlier version in which the whole pipeline has run."""
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", EARLIER], capture_output=True, check=False)
    if packed.returncode != 0:
        pytest.skip(f"needs the history of the project: a clone that holds commit {EARLIER[:7]}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(root, filter="data")
    commit_all(root)
    change_params(root, **SMALL, promotion=LENIENT)
    project = Checkout(root, environment(root))
    project.dvc("repro")
    return project


def upgrade(project: Checkout) -> None:
    """Put this version's files in place of the earlier one's, as `git pull` would."""
    for name in project.run("git", "ls-files").stdout.splitlines():
        if name.startswith(("histopipe/", "tasks/", "flows/")) or name == "dvc.yaml":
            (project.root / name).unlink()
    kept = yaml.safe_load((project.root / "params.yaml").read_text(encoding="utf-8"))
    copy_project(project.root)
    sections = {name: kept[name] for name in (*SMALL, "promotion")}
    change_params(project.root, **sections)
    shutil.rmtree(project.root / "histopipe/__pycache__", ignore_errors=True)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_an_upgraded_checkout_goes_on(checkout: Callable[..., Checkout], tmp_path: Path) -> None:
    project = of_earlier_version(tmp_path / "earlier")
    first = client(project).get_model_version_by_alias(NAME, "champion")
    upgrade(project)
    said = project.dvc("repro", "--force", "--single-item", "locate").stdout
    assert "idc: cancernet will be trained again: an earlier version of histopipe trained it" in said

    new = tmp_path / "new.zip"
    write_archive(new, SyntheticSlides(cases=2, patches=60, nested_copy=False, seed=5))
    project.histopipe("predict", str(new), "--out", "graded")
    assert (project.root / "graded/predictions.parquet").exists()

    project.dvc("repro")
    again = client(project).get_model_version_by_alias(NAME, "champion")
    assert int(again.version) >= int(first.version)
    assert client(project).get_run(first.run_id).info.status == "FINISHED"
    assert project.run(sys.executable, "-m", "histopipe", "rollback", "idc", check=False).returncode in (0, 2)
