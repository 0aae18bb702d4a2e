"""Champion and challenger as trainings make them, through `dvc repro`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.checkouts import NO_FLOORS
from histopipe.core.files import read_json
from tests.builders.archives import write_zip
from tests.builders.checkouts import Checkout
from tests.builders.paths import ROOT
from tests.builders.registry import NAME, aliases, client, tags

MIDDLING = {"max_epochs": 3, "max_patches": 1000, "max_image_size": 32}


@pytest.mark.long
def test_one_epoch_is_refused_a_longer_training_promoted_and_taken_back(checkout: Callable[..., Checkout]) -> None:
    project = checkout(quick=MIDDLING, synthetic={"cases": 60, "patches": 4000})
    assert "version 1 (cancernet) is champion" in project.dvc("repro").stdout
    project.change(quick={"max_epochs": 1, "max_patches": 64})
    refused = project.dvc("repro").stdout
    assert "version 2 (cancernet) is refused and becomes challenger" in refused
    assert aliases(project) == {"champion": "1", "challenger": "2"}
    assert "ROC AUC" in tags(project, "2")["reasons"]
    project.change(quick={"max_epochs": 8, "max_patches": 2500})
    assert "version 3 (cancernet) is champion" in project.dvc("repro").stdout
    assert aliases(project)["champion"] == "3"
    assert "version 1" in project.histopipe("rollback", "idc").stdout
    assert aliases(project)["champion"] == "1"


@pytest.mark.long
def test_experiments_leave_the_registry_alone_until_one_is_kept_and_promoted(checkout: Callable[..., Checkout]) -> None:
    """Real ones, in place and in DVC's temporary folder; by DVC's account `promote` ran and ended well in both."""
    project = checkout(promotion=NO_FLOORS)
    project.run("git", "commit", "--quiet", "--all", "--message", "small")
    for place, epochs in (((), 1), (("--temp",), 3)):
        done = project.dvc("exp", "run", *place, "-S", f"quick.max_epochs={epochs}").stdout
        assert "idc: experiments don't promote: keep this one with `dvc exp apply`" in done
        assert client(project).search_model_versions(f"name = '{NAME}'") == []
    assert "Data and pipelines are up to date" in project.dvc("repro").stdout
    assert "version 1 (cancernet) is champion" in project.histopipe("promote", "idc").stdout
    assert aliases(project) == {"champion": "1"}


@pytest.mark.long
def test_an_unchanged_clone_leaves_a_groups_champion_alone(checkout: Callable[..., Checkout], tmp_path: Path) -> None:
    """One tracking store; a group's own patches in full, and a clone that draws its slides under `quick`."""
    members, rows = {}, ["file,case_id,label"]
    for number in range(300):
        name, label = f"{number}.png", number % 2
        members[name] = shade(180 - 80 * label, number)
        rows.append(f"{name},case{number // 20},{label}")
    manifest = tmp_path / "ours.csv"
    manifest.write_text("\n".join(rows) + "\n")
    archive = write_zip(tmp_path / "ours.zip", members)
    shared = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'shared.db'}"}
    lenient = NO_FLOORS | {"margin": 0.9}
    ours = {"source": str(archive), "manifest": str(manifest), "patch_size": [24, 24]}
    short = yaml.safe_load((ROOT / "params.yaml").read_text())["recipes"]["cancernet"] | {"epochs": 2}
    group = checkout(idc=ours, quick=None, recipes={"cancernet": short}, promotion=lenient)
    group = Checkout(group.root, {**group.environment, **shared})
    assert "version 1 (cancernet) is champion" in group.dvc("repro").stdout
    clone = checkout(promotion=lenient)
    clone = Checkout(clone.root, {**clone.environment, **shared})
    said = clone.dvc("repro").stdout
    assert "version 2 (cancernet) is refused and becomes challenger" in said
    assert "data compared with the champion's: other (" in said
    refused = clone.histopipe("predict", str(archive), "--out", str(tmp_path / "scores"), check=False)
    assert (refused.returncode, refused.stderr.count("histopipe: ")) == (2, 1), refused.stderr
    assert "is made from other data than idc is here" in refused.stderr
    assert not (tmp_path / "scores").exists()
    done = group.histopipe("predict", str(archive), "--out", str(tmp_path / "scores"))
    assert read_json(tmp_path / "scores/summary.json")["data"]["verdict"] == "same", done.stderr


def shade(level: int, seed: int) -> bytes:
    """A patch of noise around a grey."""
    noise = np.random.default_rng(seed).integers(-20, 20, (24, 24, 3))
    buffer = io.BytesIO()
    Image.fromarray((level + noise).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
