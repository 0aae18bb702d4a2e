"""An archive of the published size: drawn, ingested in bounded memory, divided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measuring import run_side
from histopipe.data.splitting.membership import read_membership
from tests.builders.checkouts import Checkout


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_full_size_archive_is_ingested_in_bounded_memory(
    checkout: Callable[..., Checkout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "full.zip"
    project = checkout(idc={"source": str(archive)})
    drawn = project.histopipe("synth", "idc", "--cases", "279", "--patches", "277524", "--out", str(archive))
    assert "277,524 patches" in drawn.stdout
    project.histopipe("locate", "idc")
    project.histopipe("fetch", "idc")
    monkeypatch.chdir(project.root)
    used = run_side("tests.integration.ingest_side")
    assert used["patches"] == 277_524
    assert used["peak_gib"] < 3
    report = json.loads((project.root / "data/store/idc/report.json").read_text())
    assert report["cases"] == 279
    assert report["bad"] == 0
    assert report["second_copies"] > 0
    project.histopipe("split", "idc")
    membership = read_membership(project.root / "data/splits/idc.csv")
    assert membership["case_id"].nunique() == 279
