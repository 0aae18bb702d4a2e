"""Whole slides graded: the served model's own numbers on their tiles, overlays, pseudonyms, bad slides set aside."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import openslide
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
from mlflow import MlflowClient
from PIL import Image

from histopipe.core import files
from histopipe.core.errors import PredictionError, PseudonymError
from histopipe.core.workspace import Workspace
from histopipe.inference import slide_prediction as slides_module
from histopipe.inference import table as layout
from histopipe.inference.mlflow_run import log_predictions
from histopipe.inference.pixel_size import trained_pixel_size
from histopipe.inference.pseudonyms import KEY_VARIABLE, Pseudonyms, choose_names, load_pseudonyms
from histopipe.inference.slide_prediction import SlideOptions
from histopipe.inference.slides import slide as slide_module
from histopipe.inference.stage import predict
from histopipe.ingest.archives.reading import open_archive
from histopipe.ingest.images import decode_patch
from histopipe.tracking.stores import tracking_uri
from tests.builders.new_patches import in_folder, members, picture, run, zipped
from tests.builders.paths import ROOT
from tests.builders.slides import slide_file, tissue_on_glass

BOTH = SlideOptions(mpp=4.0, overlays=("geojson", "ome-tiff"))
ACCESSION = "H26-004711"  # a case id to be hidden


def graded_slides(
    inputs: list[Path], model: Path, tmp_path: Path, options: SlideOptions = BOTH, **others: Any
) -> tuple[dict[str, Any], pd.DataFrame]:
    out = tmp_path / "out"
    summary = predict(inputs, str(model), "idc", out, Workspace(tmp_path), slide_options=options, **others)
    return summary, pd.read_parquet(out / "predictions.parquet")


def test_tiles_get_the_networks_own_probabilities(tmp_path: Path, model: Path, network: keras.Model) -> None:
    path = slide_file(tmp_path / "S1.tif", tissue_on_glass())
    summary, table = graded_slides([path], model, tmp_path)
    assert set(zip(table["x"], table["y"], strict=True)) == {
        (x, y) for x in (800, 1200, 1600, 2000) for y in (400, 800, 1200)
    }
    assert set(table["file"]) == {f"S1.tif#x{x}_y{y}" for x, y in zip(table["x"], table["y"], strict=True)}
    assert set(table["case_id"]) == {"S1"} and set(table["width"]) == set(table["height"]) == {400}
    whole = Image.fromarray(tissue_on_glass())
    tiles = np.stack(
        [
            np.asarray(whole.crop((x, y, x + 400, y + 400)).resize((50, 50), Image.Resampling.BOX))
            for x, y in zip(table["x"], table["y"], strict=True)
        ]
    )
    np.testing.assert_allclose(table["probability"], network.predict_on_batch(tiles)[:, 0], rtol=0, atol=1e-4)
    assert (table["decision"] == (table["probability"] >= 0.5)).all()
    told = pd.read_csv(tmp_path / "out/slides.csv").iloc[0]
    assert (told["width"], told["height"], told["mpp_x"], told["mpp_from"], told["tiles"]) == (
        3000,
        2100,
        0.5,
        "the file",
        12,
    )
    assert told["tissue_mm2"] == pytest.approx(0.7 * 0.6, rel=0.03)
    assert (summary["slides"], summary["patch_mpp"], summary["cases"], summary["maps"]) == (1, 4.0, 1, 1)
    assert Image.open(tmp_path / "out/maps/S1.png").size[0] > 1000
    assert not (tmp_path / "out/tissue").exists()  # only who asks for it gets it


def test_geojson_is_what_qupath_reads(tmp_path: Path, model: Path) -> None:
    summary, table = graded_slides([slide_file(tmp_path / "S1.tif", tissue_on_glass())], model, tmp_path)
    content = json.loads((tmp_path / "out/overlays/S1.geojson").read_text())
    assert content["type"] == "FeatureCollection" and summary["overlays"] == ["geojson", "ome-tiff"]
    of_kind: dict[str, list[Any]] = {"tile": [], "annotation": []}
    for feature in content["features"]:
        of_kind[feature["properties"]["objectType"]].append(feature)
        assert feature["type"] == "Feature" and uuid.UUID(feature["id"])
        assert feature["geometry"]["type"] == "Polygon"
        assert all(ring[0] == ring[-1] for ring in feature["geometry"]["coordinates"])
        classified = feature["properties"]["classification"]
        assert classified["name"] in ("IDC", "benign") and [type(part) for part in classified["color"]] == [int] * 3
        assert all(isinstance(value, float | int) for value in feature["properties"]["measurements"].values())
    assert len({feature["id"] for feature in content["features"]}) == len(content["features"])
    shown = {tuple(tile["geometry"]["coordinates"][0][0]): tile["properties"] for tile in of_kind["tile"]}
    for row in table.itertuples():
        properties = shown[(row.x, row.y)]
        assert properties["measurements"]["probability"] == pytest.approx(row.probability, abs=1e-6)
        assert properties["classification"]["name"] == ("IDC" if row.decision else "benign")
    counted = sum(region["properties"]["measurements"]["tiles"] for region in of_kind["annotation"])
    assert counted == table["decision"].sum()


def test_the_heat_map_is_a_pyramid_that_lies_over_the_slide(tmp_path: Path, model: Path) -> None:
    fine = SlideOptions(mpp=1.0, overlays=("ome-tiff",))  # tiles of 100 pixels: enough of them for two levels
    _, table = graded_slides([slide_file(tmp_path / "S1.tif", tissue_on_glass())], model, tmp_path, fine)
    path = tmp_path / "out/overlays/S1.ome.tif"
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome and tiff.series[0].axes == "YXS"
        assert [level.shape[:2] for level in tiff.series[0].levels] == [(336, 480), (168, 240)]
        assert all(page.is_tiled for page in tiff.pages)
        assert 'PhysicalSizeX="3.125" PhysicalSizeXUnit="µm"' in str(tiff.ome_metadata)
        picture = tiff.asarray()
    with openslide.OpenSlide(path) as again:
        assert float(again.properties["openslide.mpp-x"]) * again.dimensions[0] == pytest.approx(3000 * 0.5, rel=1e-3)
    from matplotlib import colormaps

    for row in table.itertuples():
        middle = picture[int((row.y + row.height / 2) / 6.25), int((row.x + row.width / 2) / 6.25)]
        expected = np.array(colormaps["viridis"](row.probability)[:3]) * 255
        np.testing.assert_allclose(middle, expected, atol=1)


def test_slides_patches_and_archives_go_together_into_a_csv(tmp_path: Path, model: Path) -> None:
    folder = in_folder(tmp_path / "new", {"a/one.png": picture(1), "b/notes.txt": b"passed over"})
    for name in ("a", "b"):  # two slides of one name
        slide_file(folder / name / "S1.tif", tissue_on_glass())
    archive = zipped(tmp_path / "new.zip", members(4) | {"in/S9.svs": b"packed"})
    summary = predict(
        [folder, archive], str(model), "idc", tmp_path / "out", Workspace(tmp_path), table="csv", slide_options=BOTH
    )
    table = pd.read_csv(tmp_path / "out/predictions.csv", dtype={"case_id": str})
    assert table["case_id"].value_counts().to_dict() == {"a": 1, "8863": 2, "8864": 2, "S1": 12, "S1 (2)": 12}
    assert summary["patches"] == len(table) == 29 and not (tmp_path / "out/predictions.parquet").exists()
    assert summary["set_aside"] == {"a slide in an archive: unpack it": {"count": 1, "files": ["in/S9.svs"]}}
    assert {path.name for path in (tmp_path / "out/maps").iterdir()} == {
        "8863.png",
        "8864.png",
        "S1.png",
        "S1%20%282%29.png",
    }
    assert (
        table.groupby("case_id")["probability"].apply(list)["S1"]
        == table.groupby("case_id")["probability"].apply(list)["S1 (2)"]
    )


def test_bad_slides_are_set_aside_whole_and_the_others_graded(
    tmp_path: Path, model: Path, real: Callable[[str], Path]
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    whole = real("CMU-1-Small-Region.svs").read_bytes()
    damaged = bytearray(whole)
    damaged[400_000:900_000] = bytes(500_000)  # opens, and breaks off on the way
    (folder / "damaged.svs").write_bytes(damaged)
    (folder / "cut.svs").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (3000, 3000)).save(folder / "photograph.jpg")
    (folder / "photograph.jpg").rename(folder / "photograph.svs")
    slide_file(folder / "empty.tif", np.full((2100, 3000, 3), 250, np.uint8))
    slide_file(folder / "grey.tif", tissue_on_glass()[..., 1], photometric="minisblack")
    slide_file(folder / "nowhere.tif", tissue_on_glass(), mpp=None)
    slide_file(folder / "good.tif", tissue_on_glass())
    summary, table = graded_slides([folder], model, tmp_path)
    assert {reason: entry["files"] for reason, entry in summary["set_aside"].items()} == {
        "no slide that OpenSlide can read": ["cut.svs", "photograph.svs"],
        "damaged slide": ["damaged.svs"],
        "no tissue found": ["empty.tif"],
        "a slide without colour": ["grey.tif"],
        "unknown pixel size: give --slide-mpp": ["nowhere.tif"],
    }
    assert set(table["case_id"]) == {"good"} and summary["slides"] == summary["maps"] == 1


def test_the_real_slide_is_graded_where_its_tissue_is(tmp_path: Path, model: Path, real: Callable[[str], Path]) -> None:
    summary, table = graded_slides([real("CMU-1-Small-Region.svs")], model, tmp_path)
    assert summary["patches"] == 25 and summary["set_aside"] == {}
    assert table["width"].between(400, 401).all()  # 50 pixels of 4 um at .499 um
    places = set(zip(table["x"], table["y"], strict=True))
    assert {(1202, 1202), (802, 2004)} <= places and not {(0, 1202), (2004, 1603)} & places  # tissue; glass


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "nothing to predict in new.tif (1 x unknown pixel size: give --slide-mpp)"),
        (("--slide-mpp", "9"), "scanned more coarsely"),
        (("--dataset", "malaria"), "the pixel size of malaria's patches is unknown"),
        (("--pseudonym-table", "t.csv"), "add --pseudonymise"),
        (("--pseudonymise", "--pseudonym-table", "out/t.csv"), "would reveal the cases"),
        (("--pseudonymise", "--pseudonym-key", "gone"), "gone can't be read"),
    ],
)
def test_bad_slides_and_options_are_one_line_and_write_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], complaint: str
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    slide_file(Path("new.tif"), tissue_on_glass(), mpp=None)
    code, said = run("new.tif", "--model", model, "--out", "out", *options)
    assert code == 2 and said.startswith("histopipe: ") and complaint in said
    assert not Path("out").exists() and not Path("t.csv").exists()


def test_overlays_without_a_slide_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(PredictionError, match="leave out --overlay"):
        graded_slides([zipped(tmp_path / "new.zip", members(4))], model, tmp_path)


def test_the_command_grades_a_slide_for_qupath(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    slide_file(Path("new.tif"), tissue_on_glass(), mpp=None)
    code, said = run(
        "new.tif", "--model", model, "--out", "out", "--slide-mpp", "0.5", "--format", "csv", "--overlay", "geojson"
    )
    assert code == 0, said
    assert {path.name for path in Path("out").iterdir()} == {
        ".histopipe.json",
        "predictions.csv",
        "cases.csv",
        "slides.csv",
        "summary.json",
        "maps",
        "overlays",
    }


def test_a_data_sets_own_pixel_size_comes_first(params: Any) -> None:
    block = params.dataset("idc")
    assert trained_pixel_size("idc", block) == 4.0
    assert trained_pixel_size("idc", block.model_copy(update={"mpp": 2.0})) == 2.0
    assert trained_pixel_size("idc", block.model_copy(update={"manifest": "t.csv"})) is None
    assert trained_pixel_size("breakhis", block.model_copy(update={"magnification": 100})) == 0.4


def hidden_inputs(tmp_path: Path) -> list[Path]:
    """A slide, patches and unusable members, all of them named after one patient."""
    folder = tmp_path / f"{ACCESSION}-scans"
    folder.mkdir()
    slide_file(folder / f"{ACCESSION}.tif", tissue_on_glass(), description=f"Aperio {ACCESSION}")
    slide_file(folder / f"{ACCESSION}-b.tif", np.full((2100, 3000, 3), 250, np.uint8))  # set aside
    names = [f"{ACCESSION}_idx5_x{50 * number}_y0_class0.png" for number in range(3)]
    content = {f"{ACCESSION}/0/{name}": picture(number) for number, name in enumerate(names)}
    return [folder, zipped(tmp_path / f"{ACCESSION}.zip", content | {f"{ACCESSION}/bad.png": b"?"})]


def test_no_byte_of_what_is_written_or_logged_names_a_pseudonymised_case(
    workspace: Workspace, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = workspace.root / "shared"
    names = Pseudonyms(b"a key of sixteen bytes or more")
    summary = predict(
        hidden_inputs(tmp_path_factory.mktemp("in")), str(model), "idc", out, workspace, slide_options=BOTH, names=names
    )
    log_predictions("idc", summary, out, workspace)
    table = pd.read_parquet(out / "predictions.parquet")
    assert summary["pseudonymised"] and len(table) == 15
    assert {entry["count"] for entry in summary["set_aside"].values()} == {1}
    written = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert {".parquet", ".png", ".geojson", ".tif", ".db"} <= {path.suffix for path in written}
    for path in written:
        assert ACCESSION not in str(path.relative_to(workspace.root))
        assert ACCESSION.encode() not in path.read_bytes()
    assert ACCESSION not in "".join(table["file"]) + "".join(table["case_id"])  # Parquet may compress
    with tifffile.TiffFile(next(out.glob("overlays/*.tif"))) as tiff:
        assert ACCESSION not in str(tiff.ome_metadata)


SECRETS = ("scanner-room-7.example", "dr-hannah-77", "0242ac7e5f19")  # the machine's name, the user's, its address
VERSION_ONE = rb"[0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.mark.parametrize("hidden", [True, False])
def test_nothing_of_the_machine_is_in_what_a_pseudonymised_call_writes(
    workspace: Workspace,
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    hidden: bool,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: SECRETS[0])
    monkeypatch.setattr(uuid, "getnode", lambda: int(SECRETS[2], 16))
    monkeypatch.setattr(uuid, "_generate_time_safe", None)
    for variable in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, SECRETS[1])
    out = tmp_path_factory.mktemp("shared") / "scores"
    names = Pseudonyms(b"a key of sixteen bytes or more") if hidden else None
    inputs = hidden_inputs(tmp_path_factory.mktemp("in"))
    summary = predict(inputs, str(model), "idc", out, workspace, slide_options=replace(BOTH, tissue=True), names=names)
    run_id = log_predictions("idc", summary, out, workspace)
    tags = MlflowClient(tracking_uri(workspace)).get_run(run_id).data.tags
    content = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {".parquet", ".png", ".csv", ".json", ".geojson", ".tif"} <= {path.suffix for path in content}
    content |= {path: repr(Image.open(path).info).encode() for path in content if path.suffix == ".png"}
    for path in content:
        if path.suffix == ".parquet":
            content[path] += repr(pq.read_schema(path).metadata).encode() + pd.read_parquet(path).to_csv().encode()
    whole = b"\n".join(content.values())
    assert not re.search(VERSION_ONE, whole) and SECRETS[2].encode() not in whole
    if hidden:
        paths = (str(workspace.root), str(ROOT), str(Path.home()), str(model), *(str(path) for path in inputs))
        for secret in (ACCESSION, *SECRETS, *paths):
            assert secret.encode() not in whole and secret not in repr(tags), secret


class Reversed(Pseudonyms):
    """Pseudonyms in the opposite order of the names, whatever the key."""

    def _code(self, kind: str, name: str) -> str:
        return "".join(chr(ord("z") - ord(letter) % 25) for letter in f"{name:~<40}")


@pytest.mark.parametrize("together", [1, 2**20])
def test_no_table_keeps_the_order_of_the_real_names(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(layout, "SORTED_TOGETHER", together)
    folder = tmp_path / "new"
    for name in "abc":
        in_folder(folder, {f"{name}/{number}.png": picture(number) for number in range(3)} | {f"{name}/4.png": b"?"})
        slide_file(folder / f"slide-{name}.tif", tissue_on_glass())
    key = Reversed(b"a key of sixteen bytes or more")
    inputs, options = [folder], SlideOptions(mpp=4.0)
    summary, table = graded_slides(inputs, model, tmp_path, options, names=key)
    cases, slides = (pd.read_csv(tmp_path / f"out/{name}.csv") for name in ("cases", "slides"))
    real = cases["case_id"].map(key.originals)
    assert set(real) == {"a", "b", "c", "slide-a", "slide-b", "slide-c"}
    assert list(real) != sorted(real) and list(slides["case_id"].map(key.originals)) == [
        "slide-c",
        "slide-b",
        "slide-a",
    ]
    assert list(cases["case_id"]) == sorted(cases["case_id"])
    assert list(zip(table["case_id"], table["file"], strict=True)) == sorted(
        zip(table["case_id"], table["file"], strict=True)
    )
    (aside,) = summary["set_aside"].values()
    assert len(aside["files"]) == 3 and aside["files"] == sorted(aside["files"])
    own_summary, own = graded_slides(inputs, model, tmp_path / "own", options)
    assert own_summary["patches"] == len(table) == len(own) == 3 * 3 + 3 * 12
    assert list(own["case_id"].unique()) == ["a", "b", "c", "slide-a", "slide-b", "slide-c"]
    for case, part in table.groupby(table["case_id"].map(key.originals)):
        expected = own.loc[own["case_id"] == case, "probability"]
        np.testing.assert_allclose(sorted(part["probability"]), sorted(expected), rtol=0, atol=1e-4)


def test_a_slide_and_patches_of_one_name_are_two_cases(tmp_path: Path, model: Path) -> None:
    slide = slide_file(tmp_path / "8863.tif", tissue_on_glass())
    key = Pseudonyms(b"a key of sixteen bytes or more")
    inputs = [slide, zipped(tmp_path / "new.zip", members(4))]
    for names in (None, key):
        summary, table = graded_slides(inputs, model, tmp_path, SlideOptions(mpp=4.0), names=names)
        cases = table["case_id"].map(key.originals) if names else table["case_id"]
        assert cases.value_counts().to_dict() == {"8863": 2, "8864": 2, "8863 (2)": 12}
        assert (summary["cases"], summary["maps"]) == (3, 3)


def test_a_slide_that_openslide_gives_up_on_is_set_aside_and_the_others_graded(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("bad", "good"):
        slide_file(folder / f"{name}.tif", tissue_on_glass())
    find = slides_module.find_tissue

    def broken_once(seen: Any) -> Any:
        monkeypatch.setattr(slides_module, "find_tissue", find)
        raise openslide.OpenSlideError("a tile is damaged")

    monkeypatch.setattr(slides_module, "find_tissue", broken_once)
    summary, table = graded_slides([folder], model, tmp_path, SlideOptions(mpp=4.0))
    assert summary["set_aside"] == {"damaged slide": {"count": 1, "files": ["bad.tif"]}}
    assert set(table["case_id"]) == {"good"}


def test_overlays_lie_where_qupath_shows_the_bounds_of_a_slide(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = slide_file(tmp_path / "S1.tif", tissue_on_glass())
    _, whole = graded_slides([path], model, tmp_path)
    shown = json.loads((tmp_path / "out/overlays/S1.geojson").read_text())["features"]
    picture = tifffile.imread(tmp_path / "out/overlays/S1.ome.tif")
    told = {"x": 600, "y": 300, "width": 2000, "height": 1500}
    monkeypatch.setattr(slide_module, "read_bounds", lambda properties, size: tuple(told.values()))
    _, table = graded_slides([path], model, tmp_path)
    pd.testing.assert_frame_equal(table, whole)  # only overlays are moved
    moved = json.loads((tmp_path / "out/overlays/S1.geojson").read_text())["features"]
    assert len(moved) == len(shown)
    for before, after in zip(shown, moved, strict=True):
        places = [np.array(one["geometry"]["coordinates"][0]) for one in (before, after)]
        assert (places[0] - places[1] == (600, 300)).all()
    cut = tifffile.imread(tmp_path / "out/overlays/S1.ome.tif")
    np.testing.assert_array_equal(cut, picture[12 : 12 + 60, 24 : 24 + 80])  # 25 pixels of the slide to one


def test_a_place_where_no_table_of_pseudonyms_can_lie_is_told_before_anything_is_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PseudonymError, match="can't be written"):
        choose_names(True, None, tmp_path / "file/table.csv", tmp_path / "out")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(PseudonymError, match="no table of pseudonyms"):
            choose_names(True, None, place, tmp_path / "out")
    assert (tmp_path / "file").read_text() == "mine" and sorted(tmp_path.iterdir()) == before


def test_the_table_of_pseudonyms_is_there_before_the_scores_and_keeps_its_rows(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, key = zipped(tmp_path / "new.zip", members(4)), tmp_path / "key.csv"
    key.write_text("pseudonym,original\ncase-earlier,77\n")
    names = Pseudonyms(b"a key of sixteen bytes or more")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(files, "_exchange", killed)
        graded_slides([archive], model, tmp_path, SlideOptions(), names=names, key_table=key)
    assert not (tmp_path / "out").exists()
    table = pd.read_csv(key, dtype=str).set_index("pseudonym")["original"]
    assert table["case-earlier"] == "77" and {"8863", "8864"} <= set(table)
    with monkeypatch.context() as patched, pytest.raises(PseudonymError, match="can't be written"):
        patched.setattr(Path, "touch", full)
        graded_slides([archive], model, tmp_path, SlideOptions(), names=names, key_table=key)
    assert not (tmp_path / "out").exists()


def full(path: Path, mode: int = 0o666) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_the_same_key_gives_the_same_pseudonym_and_no_key_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert load_pseudonyms(None).case(ACCESSION) != load_pseudonyms(None).case(ACCESSION)
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
    by_file = load_pseudonyms(tmp_path / "key")
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef0123456789abcdef")
    by_variable = load_pseudonyms(None)
    assert by_file.case(ACCESSION) == by_variable.case(ACCESSION) != by_variable.case("H26-004712")
    assert by_file.file("a/b.png", ACCESSION).startswith(by_file.case(ACCESSION) + "/")
    assert "0123" not in repr(by_file)
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(PseudonymError, match=r"HISTOPIPE_PSEUDONYM_KEY holds a key of 5 bytes, which can be guessed"):
        load_pseudonyms(None)


def test_the_table_of_pseudonyms_is_written_on_request_for_its_owner_alone(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = [*hidden_inputs(tmp_path), "--model", model, "--out", "out", "--pseudonymise"]
    code, said = run(*arguments, "--pseudonym-table", "key/table.csv")
    assert code == 0, said
    table = pd.read_csv("key/table.csv").set_index("pseudonym")["original"]
    cases = pd.read_csv("out/cases.csv")["case_id"]
    assert set(cases.map(table)) == {ACCESSION, f"{ACCESSION} (2)"}  # patches and a slide
    aside = json.loads(Path("out/summary.json").read_text())["set_aside"].values()
    assert {file.partition("/")[0] for entry in aside for file in entry["files"]} <= set(table.index)
    assert stat.S_IMODE(Path("key/table.csv").stat().st_mode) == 0o600


def test_own_names_stay_unless_pseudonyms_are_asked_for(tmp_path: Path) -> None:
    names = choose_names(False, None, None, tmp_path)
    assert names.case(ACCESSION) == ACCESSION and not names.pseudonymised


def put_together(patches: Path, case: str, path: Path) -> Path:
    """A real slide of which every patch is known, as a file that says 4 um to a pixel."""
    archive = open_archive(patches)
    chosen = [member for member in archive.members if Path(member.name).name.startswith(f"{case}_")]
    places = [re.findall(r"_[xy](\d+)", member.name) for member in chosen]
    pixels = np.full((2600, 3400, 3), 255, np.uint8)
    for (x, y), payload in zip(places, archive.payloads(chosen), strict=True):
        patch = decode_patch(payload())
        left, top = int(x) - 1, int(y) - 1  # the publishers count from 1
        pixels[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return slide_file(path, pixels, mpp=4.0, compression="zlib")


def test_a_real_slide_put_together_gets_what_its_patches_get(
    tmp_path: Path, model: Path, real: Callable[[str], Path]
) -> None:
    source = real("idc-slides.zip")
    _, of_slide = graded_slides(
        [put_together(source, "8863", tmp_path / "8863.tif")], model, tmp_path, SlideOptions(4.0)
    )
    predict([source], str(model), "idc", tmp_path / "patches", Workspace(tmp_path))
    patches = pd.read_parquet(tmp_path / "patches/predictions.parquet", filters=[("case_id", "==", "8863")])
    whole = patches[(patches["width"] == 50) & (patches["height"] == 50)].assign(x=patches["x"] - 1, y=patches["y"] - 1)
    both = whole.merge(of_slide, on=["x", "y"], suffixes=("", "_of_slide"))
    assert len(both) >= 0.95 * len(whole)  # the others have hardly any tissue on them
    assert len(of_slide) <= 1.02 * len(patches)
    np.testing.assert_allclose(both["probability"], both["probability_of_slide"], rtol=0, atol=1e-4)
