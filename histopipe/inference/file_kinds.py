"""The kinds of files in a folder: patches, slides, parts of slides, and others, which are set aside with a reason.

A slide may consist of many files. One of them represents the slide, and the others aren't patches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from histopipe.inference.slides.dicom import is_dicom, series_of
from histopipe.inference.slides.slide import SLIDES, is_slide

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DICOM = frozenset({".dcm", ".dicom"})

HIDDEN = "a hidden file: rename it"
ARCHIVE_IN_FOLDER = "an archive in a folder: give it by itself, or unpack it"
OTHER = "no image, slide or archive"
NOTES = "text and tables next to the images"  # these aren't mistaken for images and are counted separately
_PICTURE = "an image of a format that isn't read: convert it to PNG"
_JPEG_2000 = "a JPEG 2000 image: convert it to PNG, a slide to a tiled TIFF with levels"
_MICROSCOPE = "a microscope's format that OpenSlide can't read: export it as a tiled TIFF with levels"
_NUMBERS = "numbers rather than an image: save its patches as PNG"
_PACKED = "an archive of a kind that isn't read: make it a zip or tar"
_REASONS = {
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".jph"), _JPEG_2000),
    **dict.fromkeys((".webp", ".gif", ".heic", ".heif", ".avif", ".jxl", ".jxr", ".wdp", ".jfif", ".jpe"), _PICTURE),
    **dict.fromkeys((".ppm", ".pgm", ".pnm", ".pbm", ".tga", ".psd", ".exr", ".dng", ".svg", ".pdf"), _PICTURE),
    **dict.fromkeys((".vsi", ".ets", ".isyntax", ".i2syntax", ".kfb", ".kfbf", ".sdpc", ".tmap", ".mds"), _MICROSCOPE),
    **dict.fromkeys((".lif", ".lsm", ".zvi", ".oib", ".oif", ".oir", ".nd2", ".ims", ".qptiff", ".btf"), _MICROSCOPE),
    **dict.fromkeys((".npy", ".npz", ".h5", ".hdf5", ".mat", ".pkl", ".pt", ".parquet", ".tfrecord"), _NUMBERS),
    **dict.fromkeys((".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"), _PACKED),
}
_NOTES = frozenset(
    {".txt", ".md", ".rst", ".csv", ".tsv", ".xls", ".xlsx", ".json", ".geojson", ".xml", ".yaml", ".yml", ".toml"}
    | {".ini", ".log", ".html", ".htm", ".doc", ".docx", ".rtf", ".bib", ".sha256", ".md5", ".py", ".ipynb", ".sh"}
)
_INDEXES = frozenset({".vms", ".vmu"})  # Hamamatsu's: text with the names of the files that hold the pixels
_LONGEST_INDEX = 2**20  # bytes
_NAMED_IN_INDEX = re.compile(rb"^[^=\r\n]*=([^\r\n]+)", re.MULTILINE)


class NamedFile(NamedTuple):
    """A file and its path within the folder, with forward slashes."""

    name: str
    path: Path


class SlideFile(NamedTuple):
    """The file that represents a slide, with its path within the folder and its case id."""

    name: str
    path: Path
    case: str


class FolderContent(NamedTuple):
    """The files of a folder by kind.

    Attributes:
        images: images, which may be patches.
        slides: one entry per slide, however many files it has.
        ignored: the names of files that aren't read, each with the reason.
    """

    images: list[NamedFile]
    slides: list[SlideFile]
    ignored: list[tuple[str, str]]


def sort_files(files: Sequence[NamedFile], folder: str) -> FolderContent:
    """Sort the files of a folder by kind.

    Args:
        files: all its files, at any depth.
        folder: the folder's name, which names a slide if the folder holds nothing else.
    """
    parts = set(parts_of_slides(files))
    content, dicom = FolderContent([], [], []), list[NamedFile]()
    for file in files:
        ending = file.path.suffix.lower()
        if file.path in parts:
            continue
        if any(part.startswith(".") for part in file.name.split("/")):
            content.ignored.append((file.name, HIDDEN))
        elif ending in DICOM or (ending not in IMAGES | SLIDES and not _is_archive(file.path) and is_dicom(file.path)):
            dicom.append(file)
        elif is_slide(file.path):
            content.slides.append(SlideFile(file.name, file.path, file.path.stem))
        elif ending in IMAGES:
            content.images.append(file)
        else:
            content.ignored.append((file.name, explain_ignored_file(file.path)))
    content.slides.extend(_dicom_slides(dicom, folder))
    content.slides.sort(key=lambda slide: slide.name.split("/"))
    return content


def explain_ignored_file(path: Path) -> str:
    """Return, judged by its name, why a file is ignored and what to do about it."""
    if _is_archive(path):
        return ARCHIVE_IN_FOLDER
    ending = path.suffix.lower()
    return NOTES if ending in _NOTES else _REASONS.get(ending, OTHER)


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def distinct_series(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files, but of each DICOM series only the first."""
    seen = set()
    for path in paths:
        series = series_of(path) if path.is_file() and path.suffix.lower() not in IMAGES else None
        if series is None or (path.resolve().parent, series) not in seen:
            yield path
        seen.add((path.resolve().parent, series))


def _dicom_slides(files: Sequence[NamedFile], folder: str) -> Iterator[SlideFile]:
    """Yield one slide per series, named after its largest file, or after its folder if that holds no other series."""
    series: dict[tuple[Path, str], list[NamedFile]] = {}
    for file in files:
        series.setdefault((file.path.parent, series_of(file.path) or file.name), []).append(file)
    parents = [parent for parent, _ in series]
    for (parent, _), series_files in series.items():
        largest = max(series_files, key=lambda file: file.path.stat().st_size)
        alone = len(series_files) > 1 and parents.count(parent) == 1
        own_folder = largest.name.rpartition("/")[0].rpartition("/")[2] or folder
        yield SlideFile(largest.name, largest.path, own_folder if alone else largest.path.stem)


def parts_of_slides(files: Sequence[NamedFile]) -> Iterator[Path]:
    """Yield the files that a slide needs in addition to the one that represents it."""
    paths = {file.path for file in files}
    for path in paths:
        ending = path.suffix.lower()
        if (ending in (".dat", ".ini") and _holds_rest_of(path.parent, "{}.mrxs")) or (
            ending == ".ets" and any(_holds_rest_of(folder, "{}.vsi") for folder in list(path.parents)[:3])
        ):
            yield path
        elif ending in _INDEXES:
            yield from (path.with_name(name) for name in _names_in(path) if path.with_name(name) in paths)


def _holds_rest_of(folder: Path, slide: str) -> bool:
    """Return whether a folder holds the rest of a slide: it is named like the slide, with underscores for Olympus."""
    name = folder.name if slide.endswith("mrxs") else folder.name.strip("_")
    return folder.with_name(slide.format(name)).is_file() if folder.name else False


def _names_in(index: Path) -> Iterator[str]:
    """Yield the names of files, without folders, that an index lists."""
    try:
        with index.open("rb") as stream:
            content = stream.read(_LONGEST_INDEX)
    except OSError:
        return
    for value in _NAMED_IN_INDEX.findall(content):
        name = value.strip().decode("utf-8", "replace")
        if name and not set(name) & set("/\\\0") and name not in (".", "..") and name != index.name:
            yield name
