"""Whole slides, graded by a network that saw no patch of their cases."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from tests.builders.paths import ROOT

CASES = ["8863", "8865", "8867"]


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_maps_of_slides_that_were_left_out_follow_the_truth(
    real: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    given = {
        "--sample": real("idc-sample.zip"),
        "--slides": real("idc-slides.zip"),
        "--recipe": "cancernet",
        "--max-epochs": 4,
        "--folder": tmp_path / "work",
        "--pictures": tmp_path / "maps",
    }
    command = [sys.executable, "-m", "benchmarks.slides", *(str(part) for pair in given.items() for part in pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["excluded"] == CASES
    assert found["ratio"] is None and "truth" in found["no_ratio"]
    record = json.loads((tmp_path / "work" / "trained" / "models" / "idc" / "cancernet" / "run.json").read_text())
    assert not set(CASES) & {*record["train_cases"], *record["validation_cases"]}
    for slide in found["slides"]:
        assert slide["correlation"] > 0.3, slide
        with PIL.Image.open(tmp_path / "maps" / "figures" / "slides" / f"{slide['case_id']}.png") as picture:
            assert picture.width > 4 * 1000
