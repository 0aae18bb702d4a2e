"""Everything that lies in a folder: a patch, a slide, a part of one, or set aside with what to do about it."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from histopipe.core.errors import PredictionError
from histopipe.inference.file_kinds import ARCHIVE_IN_FOLDER, HIDDEN, NOTES, OTHER
from histopipe.inference.inputs import find_images, find_slides
from histopipe.inference.slides.dicom import is_dicom, series_of
from histopipe.inference.slides.slide import open_slide
from histopipe.inference.slides.tiles import make_grid
from histopipe.ingest.datasets import MemberRejected
from tests.builders.images import png

Content = tuple[list[str], list[tuple[str, str]], dict[str, str]]


def dicom(series: str, size: int = 0) -> bytes:
    """A DICOM file's head, with sequences of every form before the series' identifier."""

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        long = kind in (b"SQ", b"OB")
        return struct.pack("<HH2s", group, number, kind) + struct.pack("<2xI" if long else "<H", len(value)) + value

    other = element(0x20, 0xE, b"UI", b"9.9.9\0")  # of a file that this one refers to
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + other + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    endless = struct.pack("<HH2s2xI", 8, 0x1115, b"SQ", 0xFFFFFFFF) + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    parts = [
        element(2, 1, b"OB", b"\0\1"),
        element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0"),
        element(8, 8, b"CS", b"ORIGINAL"),
        endless,
        element(8, 0x1140, b"SQ", item),
        element(0x20, 0xD, b"UI", b"1.2.3\0"),
        element(0x20, 0xE, b"UI", series.encode() + b"\0" * (len(series) % 2)),
    ]
    return bytes(128) + b"DICM" + b"".join(parts) + bytes(size)


def filled(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content_of(*inputs: Path) -> Content:
    """Names of images; names and cases of slides; reasons by name of what is set aside."""
    aside: dict[str, str] = {}
    slides = [(slide.file, slide.case_id) for slide in find_slides(list(inputs))]
    images = [
        image.file
        for image in find_images(
            list(inputs),
            lambda reason, name: aside.update({name: reason}),
            on_note=lambda name: aside.update({name: NOTES}),
        )
    ]
    return images, slides, aside


def test_every_file_is_read_or_counted_with_a_reason(tmp_path: Path) -> None:
    others = {
        "a.jp2": "JPEG 2000",
        "a.vsi": "microscope",
        "_a_/stack1/frame_t.ets": None,  # belongs to the one before
        "a.webp": "PNG",
        "a.isyntax": "microscope",
        "a.npy": "PNG",
        "a.zip": ARCHIVE_IN_FOLDER,
        "a.7z": "zip or tar",
        "a.xyz": OTHER,
        "noending": OTHER,
        ".ipynb_checkpoints/b.png": HIDDEN,
        "notes.txt": NOTES,
        ".DS_Store": None,
        "Thumbs.db": None,
        "sub/._b.png": None,
    }
    folder = filled(tmp_path / "new", dict.fromkeys(others, b"x") | {"sub/b.png": png()})
    images, slides, aside = content_of(folder)
    assert (images, slides) == (["sub/b.png"], [])
    assert set(aside) == {name for name, reason in others.items() if reason}
    for name, reason in others.items():
        assert reason is None or reason in aside[name]


def test_slides_of_many_files_are_one_each_and_their_parts_are_no_patches(tmp_path: Path) -> None:
    index = b"[Virtual Microscope Specimen]\r\nImageFile=V1.jpg\r\nImageFile(1,0)=V1_1.jpg\r\nMapFile=map.jpg\n"
    files = {
        "M1.mrxs": b"x",
        "M1/Data0000.dat": b"x",
        "M1/Slidedat.ini": b"x",
        "V1.vms": index,
        **dict.fromkeys(("V1.jpg", "V1_1.jpg", "map.jpg"), b"x"),
        "patch.jpg": b"x",
        "D/level0.dcm": dicom("1.2.3", 900),
        "D/level1.dcm": dicom("1.2.3", 100),
        "D/label": dicom("1.2.3"),
        "two/a.dcm": dicom("1.2.4", 9),
        "two/b.dcm": dicom("1.2.5"),
        "two/c.dcm": dicom("1.2.4"),
        "lone.dcm": dicom("1.2.6"),
        "broken.dcm": b"no DICOM",
    }
    images, slides, aside = content_of(filled(tmp_path / "new", files))
    assert images == ["patch.jpg"] and aside == {}
    assert slides == [
        ("D/level0.dcm", "D"),
        ("M1.mrxs", "M1"),
        ("V1.vms", "V1"),
        ("broken.dcm", "broken"),
        ("lone.dcm", "lone"),
        ("two/a.dcm", "a"),
        ("two/b.dcm", "b"),
    ]
    # the same by their names, as a shell would list them
    paths = sorted((tmp_path / "new").iterdir())
    by_name = content_of(*paths)
    assert by_name[0] == images and by_name[2] == {}
    assert [case for _, case in by_name[1]] == ["D", "M1", "V1", "broken", "lone", "a", "b"]
    levels = sorted((tmp_path / "new/D").iterdir())
    assert len(find_slides([*levels[1:], levels[0]])) == 1


@pytest.mark.parametrize(
    ("name", "said"), [("a.vsi", "export it"), ("a.jp2", "convert it"), ("a.xyz", "no image, slide"), ("n.txt", "give")]
)
def test_a_file_that_is_named_and_cannot_be_read_is_refused(tmp_path: Path, name: str, said: str) -> None:
    path = filled(tmp_path, {name: b"x"}) / name
    with pytest.raises(PredictionError, match=said) as problem:
        find_slides([path])
    assert name in str(problem.value) and "\n" not in str(problem.value)


def test_a_series_is_told_by_the_files_own_identifier(tmp_path: Path) -> None:
    filled(tmp_path, {"a": dicom("1.2.3"), "cut": dicom("1.2.3")[:150], "other": b"x", "empty": b""})
    assert series_of(tmp_path / "a") == "1.2.3" and is_dicom(tmp_path / "a")
    assert [series_of(tmp_path / name) for name in ("cut", "other", "empty", "gone")] == [None] * 4
    endless = bytes(128) + b"DICM" + struct.pack("<HH2s2xI", 8, 0x1115, b"SQ", 0xFFFFFFFF) * 100
    endless += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) * 100_000
    assert series_of(filled(tmp_path, {"deep": endless}) / "deep") is None


def test_real_dicom_slides(real: Callable[[str], Path], tmp_path: Path) -> None:
    folder = real("slides")
    images, slides, aside = content_of(folder)
    cases = dict(slides)
    assert cases["CMU-1-Small-Region-dicom/volume_2220x2967.dcm"] == "CMU-1-Small-Region-dicom"
    assert sum(name.endswith(".dcm") for name in cases) == 5 and aside == {}
    assert images == ["CMU-1-crop-flat.tif"]
    assert content_of(folder / "CMU-1-Small-Region-dicom")[1] == [("volume_2220x2967.dcm", "CMU-1-Small-Region-dicom")]
    for name in ("label", "overview", "volume_139x186"):  # each stands for all of them
        with open_slide(folder / "CMU-1-Small-Region-dicom" / f"{name}.dcm") as slide:
            assert slide.size == (2220, 2967) and slide.pixel.x == pytest.approx(0.499)
    with open_slide(folder / "camelyon-jpeg2000.dcm") as slide:
        assert slide.pixel[:2] == pytest.approx((28.969, 28.968))
        with pytest.raises(MemberRejected, match="more coarsely"):
            make_grid(slide, mpp=4.0, patch=(50, 50))
    without_ending = shutil.copyfile(folder / "highdicom-sm_image.dcm", tmp_path / "IM0001")
    assert [slide.case_id for slide in find_slides([without_ending])] == ["IM0001"]
