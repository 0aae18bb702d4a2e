"""The synthetic archive: Kaggle's layout, exact counts, the same bytes every time, labels worth learning."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histopipe.core.errors import HistopipeError
from histopipe.ingest.synthetic.archive import write_archive
from histopipe.ingest.synthetic.idc.plan import plan_cases
from histopipe.ingest.synthetic.plan import SyntheticSlides
from tests.builders.paths import ROOT

KAGGLE_NAME = re.compile(
    r"^(?P<nested>IDC_regular_ps50_idx5/)?(?P<case>\d{5})/(?P<folder>[01])/"
    r"(?P=case)_idx5_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<label>[01])\.png$"
)
SMALL = SyntheticSlides(cases=4, patches=120)


@dataclasses.dataclass
class Archive:
    counts: dict[str, int]
    contents: dict[str, bytes]

    @cached_property
    def patches(self) -> list[tuple[re.Match[str], np.ndarray]]:
        """Parsed name and pixels of each patch, without the nested copies."""
        parsed = [(KAGGLE_NAME.match(name), content) for name, content in self.contents.items()]
        return [(name, pixels(content)) for name, content in parsed if name and not name["nested"]]


def pixels(content: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    assert image.mode == "RGB"
    return np.asarray(image)


def drawn(path: Path, slides: SyntheticSlides, workers: int | None = 1) -> Archive:
    counts = write_archive(path, slides, workers, progress=False)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return Archive(counts, {name: archive.read(name) for name in archive.namelist()})


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return drawn(tmp_path_factory.mktemp("synthetic") / "default.zip", SyntheticSlides(), workers=None)


def features(patch: np.ndarray) -> list[float]:
    grey = patch.mean(axis=2)
    colour = [*patch.mean(axis=(0, 1)), *patch.std(axis=(0, 1))]
    return [*colour, (grey < 110).mean(), (grey < 140).mean(), (grey > 215).mean()]


@pytest.mark.slow
def test_counts_are_those_asked_for_and_those_in_the_archive(default: Archive) -> None:
    patches = default.patches
    assert default.counts["cases"] == 60 == len({name["case"] for name, _ in patches})
    assert default.counts["patches"] == 6000 == len(patches)
    assert default.counts["positive"] == sum(name["label"] == "1" for name, _ in patches)
    assert default.counts["undersized"] == sum(patch.shape != (50, 50, 3) for _, patch in patches)
    assert default.counts["nested"] == len(default.contents) - 6000


@pytest.mark.slow
@pytest.mark.parametrize(("cases", "patches"), [(1, 1), (1, 30), (3, 3), (7, 101), (60, 61)])
def test_small_archives_have_exactly_the_patches_asked_for(tmp_path: Path, cases: int, patches: int) -> None:
    archive = drawn(tmp_path / "a.zip", SyntheticSlides(cases=cases, patches=patches))
    assert archive.counts["cases"] == cases
    assert archive.counts["patches"] == patches == len(archive.patches)


def test_the_plan_of_a_full_size_set_adds_up_and_varies_like_the_real_one() -> None:
    plans = plan_cases(SyntheticSlides(cases=279, patches=277_524))
    shares = [plan.positives / plan.patches for plan in plans]
    assert sum(plan.patches for plan in plans) == 277_524
    assert len({plan.case_id for plan in plans}) == 279
    assert sum(plan.positives for plan in plans) / 277_524 == pytest.approx(0.284, abs=0.02)  # Kaggle's share
    assert min(shares) < 0.02
    assert max(shares) > 0.7


def test_names_are_kaggles_and_folders_agree_with_labels(default: Archive) -> None:
    for name in default.contents:
        parsed = KAGGLE_NAME.match(name)
        assert parsed, name
        assert parsed["folder"] == parsed["label"]


def test_coordinates_are_unique_on_one_grid_and_form_a_connected_tissue(default: Archive) -> None:
    places = defaultdict(list)
    for name, _ in default.patches:
        places[name["case"]].append((int(name["x"]), int(name["y"])))
    for case in places.values():
        assert len(set(case)) == len(case)
        assert {(x % 50, y % 50) for x, y in case} == {(1, 1)}
        assert connected(case)


def connected(places: list[tuple[int, int]]) -> bool:
    left = set(places)
    reached = [left.pop()]
    for x, y in reached:
        touching = {(x - 50, y), (x + 50, y), (x, y - 50), (x, y + 50)} & left
        left -= touching
        reached += touching
    return not left


def test_about_one_patch_in_a_hundred_is_cut_at_the_edge_of_its_slide(default: Archive) -> None:
    assert 0.003 < default.counts["undersized"] / 6000 < 0.03
    largest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for name, _ in default.patches:
        x, y = largest[name["case"]]
        largest[name["case"]] = max(x, int(name["x"])), max(y, int(name["y"]))
    for name, patch in default.patches:
        height, width = patch.shape[:2]
        assert 1 <= height <= 50
        assert 1 <= width <= 50
        assert height == 50 or int(name["y"]) == largest[name["case"]][1]
        assert width == 50 or int(name["x"]) == largest[name["case"]][0]


def test_some_cases_stand_a_second_time_byte_for_byte(default: Archive) -> None:
    nested = [name for name in default.contents if name.startswith("IDC_regular_ps50_idx5/")]
    cases = {name.split("/")[1] for name in nested}
    assert len(cases) == 3
    for name in nested:
        assert default.contents[name] == default.contents[name.removeprefix("IDC_regular_ps50_idx5/")]
    assert len(nested) == sum(name.split("/")[0] in cases for name in default.contents)


def test_without_nested_copy_every_member_is_a_patch(tmp_path: Path) -> None:
    archive = drawn(tmp_path / "a.zip", dataclasses.replace(SMALL, nested_copy=False))
    assert archive.counts["nested"] == 0
    assert len(archive.contents) == 120


@pytest.mark.slow
def test_the_same_slides_give_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    one, again, two, other = (tmp_path / f"{name}.zip" for name in ("one", "again", "two", "other"))
    write_archive(one, SMALL, workers=1, progress=False)
    write_archive(again, SMALL, workers=1, progress=False)
    write_archive(two, SMALL, workers=2, progress=False)
    write_archive(other, dataclasses.replace(SMALL, seed=43), workers=1, progress=False)
    assert one.read_bytes() == again.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()


@pytest.mark.slow
def test_the_pixels_are_pinned_so_that_every_version_draws_the_same(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for name, content in drawn(tmp_path / "a.zip", SMALL).contents.items():
        digest.update(name.encode() + pixels(content).tobytes())
    assert digest.hexdigest() == "59c3a1ea2fe56909fa003e9fc72777217ed2b1bda4f0c6c761bf3625a316f321"


def test_stain_differs_more_between_cases_than_between_halves_of_one(default: Archive) -> None:
    tints = defaultdict(list)
    for name, patch in default.patches[::2]:
        density = -np.log((patch.astype(float) + 1) / 256).reshape(-1, 3)
        stained = density[density.sum(axis=1) > 0.6]
        if len(stained) > 500:
            tints[name["case"]].append(stained.mean(axis=0) / np.linalg.norm(stained.mean(axis=0)))
    cases = [np.array(tint) for tint in tints.values() if len(tint) > 10]
    between = np.std([case.mean(axis=0) for case in cases], axis=0)
    within = np.mean([np.abs(case[::2].mean(axis=0) - case[1::2].mean(axis=0)) for case in cases], axis=0)
    assert (between > 3 * within).all()


def test_labels_of_unseen_cases_can_be_learnt_from_simple_features_but_not_perfectly(
    default: Archive,
) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    patches = default.patches[::3]
    inputs = np.array([features(patch) for _, patch in patches], dtype=np.float32)
    labels = np.array([int(name["label"]) for name, _ in patches])
    cases = [name["case"] for name, _ in patches]
    model = make_pipeline(StandardScaler(), linear_model.LogisticRegression(max_iter=500))
    scores = cross_val_predict(model, inputs, labels, groups=cases, cv=GroupKFold(5), method="predict_proba")
    assert 0.75 < roc_auc_score(labels, scores[:, 1]) < 0.97


def test_neighbouring_patches_fit_together(default: Archive) -> None:
    by_place = {(name["case"], int(name["x"]), int(name["y"])): patch.astype(int) for name, patch in default.patches}
    across, apart = [], []
    for (case, x, y), patch in by_place.items():
        right = by_place.get((case, x + 50, y))
        if right is not None and patch.shape == right.shape == (50, 50, 3):
            across.append(np.abs(patch[:, -1] - right[:, 0]).mean())
            apart.append(np.abs(patch[:, -1] - right[:, 25]).mean())
    assert np.mean(across) < 0.75 * np.mean(apart)


@pytest.mark.parametrize(
    "values",
    [
        {"cases": 0},
        {"cases": -1},
        {"cases": 10, "patches": 9},
        {"cases": 90_000, "patches": 90_000},
        {"seed": -1},
    ],
)
def test_slides_that_cannot_be_drawn_are_refused_in_one_line(values: dict[str, int]) -> None:
    with pytest.raises(HistopipeError) as refused:
        SyntheticSlides(**values)
    assert "\n" not in str(refused.value)
    assert "give" in str(refused.value)


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HistopipeError, match="workers is 0"):
        write_archive(tmp_path / "a.zip", SMALL, workers=0, progress=False)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(HistopipeError, match=r"file/a\.zip can't be written"):
        write_archive(tmp_path / "file" / "a.zip", SMALL, workers=1, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_midway_leaves_the_former_archive_and_nothing_half_written(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"former")
    written = zipfile.ZipFile.writestr

    def full_after_ten(archive: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
        if len(archive.namelist()) == 10:
            raise OSError(28, "No space left on device")
        written(archive, member, content)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_after_ten)
    with pytest.raises(HistopipeError, match="No space left"):
        write_archive(path, SMALL, workers, progress=False)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_drawing_processes_end_soon_after_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "draw.py"
    script.write_text(
        "from pathlib import Path\n"
        "from histopipe.ingest.synthetic.archive import write_archive\n"
        "from histopipe.ingest.synthetic.plan import SyntheticSlides\n"
        "if __name__ == '__main__':\n"
        f"    write_archive(Path({str(tmp_path / 'a.zip')!r}), SyntheticSlides(400, 100_000), 2, False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    partial = f".a.zip.{parent.pid}-*.part"
    delivered = lambda: any(path.stat().st_size > 0 for path in tmp_path.glob(partial))  # noqa: E731
    assert soon(delivered, seconds=30)  # by a worker
    workers = [pid for pid in children(parent.pid) if "spawn_main" in command(pid)]
    parent.kill()
    parent.wait()
    assert len(workers) == 2
    assert soon(lambda: not any("spawn_main" in command(pid) for pid in workers), seconds=5)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def soon(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()
