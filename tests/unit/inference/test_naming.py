"""What case an image belongs to in `predict` and `monitor`: the same answer wherever the same content comes from."""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from histopipe.core.workspace import Workspace
from histopipe.inference.case_naming import CaseNamer, ImageName
from histopipe.inference.inputs import ImageInput, find_images, find_slides
from tests.builders.archives import write_zip

Content = dict[str, bytes]
CELLS = {
    f"cell_images/{folder}/C{case}P{case + 1}ThinF_IMG_20150918_144104_cell_{number}.png": b"x"
    for case in range(30)
    for number, folder in enumerate(("Parasitized", "Uninfected"))
}
FIELDS = {
    f"BreaKHis_v1/histology_slides/breast/benign/SOB/adenosis/SOB_B_A_14-2254{case}/{zoom}X/"
    f"SOB_B_A-14-2254{case}-{zoom}-001.png": b"x"
    for case in range(3)
    for zoom in (40, 100)
}


def namer(dataset: str = "idc") -> CaseNamer:
    return CaseNamer.for_data_set(dataset, ())


def found(inputs: list[Path], by: CaseNamer | None = None) -> list[ImageInput]:
    return list(find_images(inputs, lambda *_: None, namer=by or namer()))


def cases(inputs: list[Path], by: CaseNamer | None = None) -> dict[str, int]:
    return pd.Series([image.case_id for image in found(inputs, by)]).value_counts().to_dict()


def in_folder(path: Path, content: Content) -> Path:
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def tarred(path: Path, content: Content) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def nested(path: Path, content: Content) -> Path:
    """A zip of a zip for each of the outermost folders."""
    with zipfile.ZipFile(path, "w") as outer:
        for folder in {name.partition("/")[0] for name in content}:
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as archive:
                for name in content:
                    if name.startswith(f"{folder}/"):
                        archive.writestr(name.partition("/")[2], b"x")
            outer.writestr(f"{folder}.zip", inner.getvalue())
    return path


def ways(tmp_path: Path, content: Content) -> dict[str, list[Path]]:
    """The same content given to the command in every way."""
    folder = in_folder(tmp_path / "given", content)
    return {
        "folder": [folder],
        "folders of it": sorted({folder / name.partition("/")[0] for name in content}),
        "files": [folder / name for name in content],
        "zip": [write_zip(tmp_path / "new.zip", content)],
        "wrapped zip": [write_zip(tmp_path / "top.zip", {f"top/{name}": data for name, data in content.items()})],
        "tar": [tarred(tmp_path / "new.tar.gz", content)],
        "zips in a zip": [nested(tmp_path / "nested.zip", content)],
    }


WAYS = ["folder", "folders of it", "files", "zip", "wrapped zip", "tar", "zips in a zip"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dataset", "content", "expected"),
    [
        ("malaria", CELLS, {f"C{case}P{case + 1}": 2 for case in range(30)}),
        ("breakhis", FIELDS, {f"14-2254{case}": 2 for case in range(3)}),
        ("idc", {f"{c}/{c % 2}/{c}_idx5_x{x}_y1_class{c % 2}.png": b"x" for c in (8863, 8864) for x in (1, 51)},
         {"8863": 2, "8864": 2}),
        ("idc", {f"{c}/{c}_idx5_x{x}_y1.jpg": b"x" for c in (8863, 8864) for x in (1, 51)}, {"8863": 2, "8864": 2}),
        ("idc", {f"P{c}/{label}/{n}.png": b"x" for c in range(3) for label in (0, 1) for n in range(2)},
         {"P0": 4, "P1": 4, "P2": 4}),
        ("malaria", {f"P{c}/Parasitized/{n}.png": b"x" for c in range(3) for n in range(2)},
         {"P0": 2, "P1": 2, "P2": 2}),
        ("idc", {f"run/S{c}_x{x}_y0.png": b"x" for c in range(3) for x in (0, 256)}, {"S0": 2, "S1": 2, "S2": 2}),
        ("idc", {f"a{c}/tiles/{n}.png": b"x" for c in range(2) for n in range(2)}, {"a0/tiles": 2, "a1/tiles": 2}),
        ("idc", {f"set/{c}/{n}.png": b"x" for c in range(4) for n in range(2)}, {str(c): 2 for c in range(4)}),
    ],
    ids=range(9),
)  # fmt: skip
def test_the_same_content_has_the_same_cases_wherever_it_comes_from(
    tmp_path: Path, dataset: str, content: Content, expected: dict[str, int], way: str
) -> None:
    assert cases(ways(tmp_path, content)[way], namer(dataset)) == expected


@pytest.mark.parametrize(
    "name",
    [
        "{}_x{}_y{}.png", "{}_x{}_y{}_class1.png", "{}-x{}-y{}.png", "{}_X{}_Y{}.tif", "{} x{} y{}.jpg",
        "{}_x_{}_y_{}.png", "{}_x={}_y={}.png", "{} [x={},y={},w=512,h=512].png",
        "{} [d=4.0,x={},y={},w=512,h=512].png", "{} [d=2,x={},y={},w=512,h=512,z=0]_mask.png",
    ],
)  # fmt: skip
def test_tiles_belong_to_the_slide_that_stands_before_their_place(tmp_path: Path, name: str) -> None:
    slides = ("S-1.ome", "S-2.ome", "TCGA-A1-A0SB x")
    content = {name.format(slide, x, 7): b"x" for slide in slides for x in range(0, 3600, 300)}
    by = namer()
    images = found([in_folder(tmp_path / "tiles", content)], by)
    assert {(image.case_id, image.x, image.y) for image in images} == {
        (slide, x, 7) for slide in slides for x in range(0, 3600, 300)
    }
    assert not by.remarks


def test_a_place_without_a_slide_belongs_to_the_folder(tmp_path: Path) -> None:
    content = {f"S{c}/{kind}x{n}_y0.png": b"x" for c in range(2) for n in range(2) for kind in ("", "tile_")}
    by = namer()
    assert cases([in_folder(tmp_path / "new", content)], by) == {"S0": 4, "S1": 4}
    assert by.counts["places_told_twice"] == 4 and "positions have more than one image" in by.remarks[0]


def test_slides_of_one_name_and_place_in_two_folders_are_two(tmp_path: Path) -> None:
    content = {f"{site}/S1_x{n}_y0.png": b"x" for site in ("north", "south") for n in range(2)}
    by = namer()
    assert cases([write_zip(tmp_path / "new.zip", content)], by) == {"north/S1": 2, "south/S1": 2}
    assert by.remarks == ["S1 has the same positions in 2 folders: each is taken as a slide"]


def test_a_slide_divided_over_folders_is_one(tmp_path: Path) -> None:
    content = {"tumour/S1_x0_y0.png": b"x", "normal/S1_x50_y0.png": b"x", "0/S1_x100_y0.png": b"x"}
    assert cases([write_zip(tmp_path / "new.zip", content)]) == {"S1": 3}


def test_two_archives_of_one_name_inside_are_two_cases(tmp_path: Path) -> None:
    inputs = [write_zip(tmp_path / f"{site}.v2.zip", {"case1/1.png": b"x", "1.png": b"x"}) for site in ("a", "b")]
    by = namer()
    assert cases(inputs, by) == {"a.v2/case1": 1, "b.v2/case1": 1, "a.v2": 1, "b.v2": 1}
    assert "folders share their names" in by.remarks[0]


def test_two_numbers_are_no_place_but_are_told(tmp_path: Path) -> None:
    content = {f"S{c}_{x}_256.png": b"x" for c in range(2) for x in (0, 256)}
    by = namer()
    assert cases([in_folder(tmp_path / "new", content)], by) == {"new": 4}
    assert by.remarks == [
        "new holds images called S0 and S1 and two numbers, taken as one case; if the numbers are positions and these "
        "are slides, name the images SLIDE_x0_y0"
    ]


def test_kaggles_second_copies_are_graded_once(tmp_path: Path) -> None:
    own = {f"8863/0/8863_idx5_x{x}_y1_class0.png": b"x" for x in (1, 51)}
    archive = write_zip(tmp_path / "new.zip", {f"IDC_regular_ps50_idx5/{name}": b"x" for name in own} | own)
    told: list[tuple[str, str]] = []
    images = list(find_images([archive], lambda *what: told.append(what), namer=namer()))
    assert [image.file for image in images] == list(own)
    assert told == [("second copy", f"IDC_regular_ps50_idx5/{name}") for name in own]
    assert images[0].read() == b"x"


def test_spellings_of_one_folder_are_one_case(tmp_path: Path) -> None:
    content = {"Ren\u00e9/1.png": b"x", "P\u200b2/1.png": b"x", "P2 /2.png": b"x"}
    assert set(cases([write_zip(tmp_path / "new.zip", content)])) >= {"Ren\u00e9"}
    slide = tmp_path / "Rene\u0301.svs"
    slide.write_bytes(b"x")
    assert find_slides([slide])[0].case_id == "Ren\u00e9"


def manifest(tmp_path: Path, rows: str) -> CaseNamer:
    workspace = Workspace(tmp_path)
    workspace.raw("mine").mkdir(parents=True)
    (workspace.raw("mine") / "manifest.csv").write_text("file,case_id,label,x,y\n" + rows)
    return CaseNamer.for_data_set("mine", ("negative", "positive"), workspace)


@pytest.mark.parametrize("way", ["folder", "files", "zip", "wrapped zip", "tar"])
def test_a_manifest_that_lists_all_images_names_their_cases(tmp_path: Path, way: str) -> None:
    by = manifest(tmp_path, "a/1.png,P1,0,5,6\na/2.png,P2,1,,\nb/1.png,P1,0,7,8\nb/9.png,P9,0,7,8\n")
    inputs = ways(tmp_path, dict.fromkeys(("a/1.png", "a/2.png", "b/1.png"), b"x"))[way]
    images = found(inputs, by)
    assert {(image.case_id, image.x) for image in images} == {("P1", 5), ("P2", None), ("P1", 7)}
    assert by.counts["by manifest"] == 3


def test_a_manifest_that_lists_some_images_names_none(tmp_path: Path) -> None:
    by = manifest(tmp_path, "a/1.png,P1,0,5,6\na/2.png,P2,1,,\n")
    archive = write_zip(tmp_path / "new.zip", dict.fromkeys(("a/1.png", "a/2.png", "a/3.png"), b"x"))
    assert cases([archive], by) == {"a": 3}


def test_folders_that_only_the_outermost_tells_apart_are_named_soon() -> None:
    folders = [("x.zip", f"u{number}", *["a"] * 99) for number in range(2000)]
    images = [ImageName("/".join((*each, "1.png")), each, 1, 1, "") for each in folders]
    started = time.process_time()
    named = namer("idc").name(images)
    assert time.process_time() - started < 5
    assert named[7].case_id == "/".join(folders[7][1:]) and len({name.case_id for name in named}) == len(images)


def test_real_archives_have_the_cases_that_ingest_gives_them(real: Callable[[str], Path]) -> None:
    for dataset, name, count in (("idc", "idc-sample.zip", 230), ("malaria", "malaria-sample.zip", 160)):
        by = namer(dataset)
        images = found([real(name)], by)
        assert len({image.case_id for image in images}) == count
        assert len(images) == {"idc": 9387, "malaria": 3633}[dataset] and not by.remarks
    assert len(cases([real("breakhis-sample.zip")], namer("breakhis"))) == 17
