"""Bad input, as a user meets it: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.builders.archives import idc_members, patch_name, write_zip
from tests.builders.checkouts import Checkout
from tests.builders.images import png

Make = Callable[..., Checkout]
STAGES = ("locate", "fetch", "ingest", "split")


def run_to_failure(project: Checkout) -> tuple[str, str]:
    """Run the stages in turn; returns the one that refuses its input and what it says."""
    for stage in STAGES:
        done = project.histopipe(stage, "idc", check=False)
        if done.returncode != 0:
            check_clear(done)
            check_nothing_half_written(project, stage)
            return stage, done.stderr
    pytest.fail("nothing was refused")


def check_clear(done: subprocess.CompletedProcess[str]) -> None:
    said = [line for line in done.stderr.splitlines() if line.strip() and "patch/s]" not in line]
    assert done.returncode == 2, done.stderr
    assert 1 <= len(said) <= 3, done.stderr
    assert "Traceback" not in done.stderr
    assert said[-1].startswith("histopipe: ")


def check_nothing_half_written(project: Checkout, stage: str) -> None:
    outputs = {
        "locate": "data/source/idc.json",
        "fetch": "data/raw/idc",
        "ingest": "data/store/idc",
        "split": "data/splits/idc.csv",
    }
    assert not (project.root / outputs[stage]).exists()
    assert not list(project.root.glob("data/**/*.part"))
    assert (project.root / f".failures/{stage}@idc.json").exists()


def use(project: Checkout, source: Path) -> Checkout:
    project.change(idc={"source": str(source)})
    return project


def truncated(path: Path) -> Path:
    content = write_zip(path, idc_members()).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def one_class(path: Path) -> Path:
    return write_zip(path, {patch_name(9000 + case, 1, 51 + 50 * case, 0): png(seed=case) for case in range(8)})


@pytest.mark.parametrize(
    ("make", "stages", "said"),
    [
        (lambda path: path, ("locate",), "a.zip"),
        (
            lambda path: written(path, b"not an archive" * 99),
            ("locate", "fetch", "ingest"),
            "neither a zip nor a tar|not an archive",
        ),
        (truncated, ("locate", "fetch", "ingest"), "truncated"),
        (lambda path: written(path, b""), ("locate", "fetch", "ingest"), "empty"),
        (lambda path: write_zip(path, {}), ("locate", "fetch", "ingest"), "without any files|no files|empty"),
        (lambda path: write_zip(path, {"notes.txt": b"x"}), ("ingest",), "contains no patches"),
        (lambda path: write_zip(path, idc_members(cases=2)), ("split",), "2 cases can't be divided"),
        (one_class, ("split",), "a class missing"),
    ],
)
def test_a_bad_source_is_refused(
    checkout: Make, tmp_path: Path, make: Callable[[Path], Path], stages: tuple[str, ...], said: str
) -> None:
    import re

    project = use(checkout(), make(tmp_path / "a.zip"))
    stage, message = run_to_failure(project)
    assert stage in stages
    assert re.search(said, message), message


def test_a_misspelt_key_names_the_nearest_valid_one(checkout: Make) -> None:
    project = checkout()
    project.change(split={"shceme": "grouped"})
    done = project.histopipe("split", "idc", check=False)
    check_clear(done)
    assert "did you mean 'split.scheme'" in done.stderr


def test_an_unknown_architecture_names_the_nearest_known_one(checkout: Make) -> None:
    done = checkout().histopipe("train", "idc", "cancernett", check=False)
    check_clear(done)
    assert "did you mean 'cancernet'" in done.stderr


def test_a_stage_without_its_input_says_what_to_run(checkout: Make) -> None:
    for arguments in (("fetch", "idc"), ("ingest", "idc"), ("split", "idc"), ("train", "idc", "cancernet")):
        check_clear(checkout().histopipe(*arguments, check=False))


def test_outside_a_checkout_the_command_says_so(tmp_path: Path, checkout: Make) -> None:
    project = checkout()
    (project.root / "params.yaml").unlink()
    done = project.histopipe("ingest", "idc", check=False)
    assert done.returncode == 2
    assert "no params.yaml" in done.stderr


def test_bad_members_are_listed_and_the_rest_goes_on(checkout: Make, tmp_path: Path) -> None:
    bad = {
        "../x.png": png(),
        patch_name(10000, 9001, 1, 0): b"text",
        patch_name(10000, 9051, 1, 0, folder=1): png(),
    }
    project = use(checkout(ingest={"max_bad": 0.05}), write_zip(tmp_path / "a.zip", idc_members() | bad))
    for stage in STAGES:
        project.histopipe(stage, "idc")
    report = yaml.safe_load((project.root / "data/store/idc/report.json").read_text())
    assert report["bad"] == 3
    listed = [file for entry in report["set_aside"].values() for file in entry["files"]]
    assert sorted(listed) == sorted(bad)
    assert not list(tmp_path.rglob("x.png"))
    project.change(ingest={"max_bad": 0.01})
    done = project.histopipe("ingest", "idc", check=False)
    check_clear(done)
    assert "more than ingest.max_bad = 0.01 allows" in done.stderr
    assert yaml.safe_load((project.root / "data/store/idc/report.json").read_text()) == report  # the old store stays


@pytest.mark.parametrize("stage", ["fetch", "ingest"])
def test_a_full_disk_is_refused_before_anything_is_written(
    checkout: Make, tmp_path: Path, small_disk: Path, stage: str
) -> None:
    archive = write_zip(tmp_path / "a.zip", idc_members(cases=30))
    project = use(checkout(), archive)
    project.histopipe("locate", "idc")
    if stage == "ingest":
        project.histopipe("fetch", "idc")
    target = project.root / "data" / {"fetch": "raw", "ingest": "store"}[stage]
    target.symlink_to(small_disk, target_is_directory=True)
    done = project.histopipe(stage, "idc", check=False)
    check_clear(done)
    assert "are free there" in done.stderr
    assert list(small_disk.iterdir()) == []


def test_dvc_and_the_flow_pass_the_reason_on(checkout: Make, tmp_path: Path) -> None:
    import sys

    project = use(checkout(), tmp_path / "missing.zip")
    done = project.run(sys.executable, "-m", "flows.pipeline", check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("histopipe: ")]
    assert "missing.zip" in said
    assert done.stderr.count("Running stage 'locate@idc'") + done.stdout.count("Running stage 'locate@idc'") == 1
