"""What is to be graded: image files, whole slides, folders of both, and archives, in any layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from histopipe.archive_limits import USUAL_LIMIT, MemberLimit
from histopipe.archives import check_member, open_archive
from histopipe.datasets import MemberRejected
from histopipe.errors import ArchiveError, ScoringError
from histopipe.folders import FolderFile, files_below
from histopipe.images import MAX_PIXELS
from histopipe.leftovers import is_leftover
from histopipe.names import CONTROL_IN_NAME, holds_control, printable, with_slashes
from histopipe.scoring.kinds import (
    ARCHIVE_IN_FOLDER,
    ARCHIVES,
    IMAGES,
    NOTES,
    OTHER,
    FolderContent,
    NamedFile,
    SlideFile,
    distinct_series,
    parts_of_slides,
    reason_aside,
    sort_files,
)
from histopipe.slides.dicom import is_dicom
from histopipe.slides.slide import SLIDES, is_slide

SLIDE_IN_ARCHIVE = "a slide in an archive: unpack it"
ARCHIVE_INSIDE = "an archive in an archive: unpack it"
LONGEST_FILE = 4 * MAX_PIXELS + 2**20  # bytes of an image that is read, uncompressed with transparency

_PLACE = re.compile(r"(?:^|_)x(?P<x>\d{1,9})_y(?P<y>\d{1,9})(?=[_.])")
_CASE = re.compile(r"(?P<case>[A-Za-z0-9-]+)_idx\d+_x\d+_y\d+")


class Found(NamedTuple):
    """An image that may be graded.

    Attributes:
        file: how the table names it.
        case_id: what it belongs to: a slide or case by its name, else the folder or archive that it lies in.
        x, y: its place on the slide in pixels, as its name tells; None where it doesn't.
        read: gives its bytes; raises MemberRejected for a damaged one.
    """

    file: str
    case_id: str
    x: int | None
    y: int | None
    read: Callable[[], bytes]


class SlideFound(NamedTuple):
    """A whole slide that may be graded.

    Attributes:
        path: of its file.
        file: how the table names it.
        case_id: the file's name without its ending, or that of a folder which holds the slide's many files; others may
            have it too (`distinct_slides`).
    """

    path: Path
    file: str
    case_id: str


def find_slides(inputs: list[Path], limit: MemberLimit = USUAL_LIMIT) -> list[SlideFound]:
    """Every whole slide among the inputs and in folders of them.

    Raises:
        ScoringError: an input is missing, can't be read, has a line break in its name, or is no image, slide, folder or
            archive.
        ArchiveError: a folder holds more files than `limit` allows.
    """
    slides = _slide_files(inputs, limit)
    return [SlideFound(slide.path, printable(slide.name), printable(slide.case)) for slide in slides]


def distinct_slides(slides: list[SlideFound], taken: Collection[str]) -> list[SlideFound]:
    """The slides, with a number after a `case_id` that another slide has, or that is `taken` by patches."""
    distinct: list[SlideFound] = []
    used = set(taken)
    for slide in slides:
        numbered = (f"{slide.case_id} ({number})" for number in count(2))
        case_id = next(name for name in chain([slide.case_id], numbered) if name not in used)
        used.add(case_id)
        distinct.append(slide._replace(case_id=case_id))
    return distinct


def _slide_files(inputs: list[Path], limit: MemberLimit) -> Iterator[SlideFile]:
    for path in distinct_series(inputs):
        _require_name(path)
        if path.is_dir():
            yield from _content(path, limit).slides
        elif not path.exists():
            raise ScoringError(f"{path} is missing: correct the path")
        elif is_slide(path) or (path.suffix.lower() not in IMAGES and is_dicom(path)):
            yield SlideFile(path.name, path, path.stem)
        elif not path.name.lower().endswith(ARCHIVES) and path.suffix.lower() not in IMAGES:
            reason = reason_aside(path)
            if reason in (OTHER, NOTES):
                reason = "no image, slide, folder or archive of patches: give one of these"
            raise ScoringError(f"{path} is {reason}")


def _content(folder: Path, limit: MemberLimit) -> FolderContent:
    """What lies in a folder; names and links that can't be followed are set aside as well."""
    files, aside = [], []
    for file in _below(folder, limit):
        control = CONTROL_IN_NAME if holds_control(file.name) and reason_aside(file.path) != NOTES else None
        if fault := file.fault or control:
            aside.append((file.name, fault))
        else:
            files.append(NamedFile(file.name, file.path))
    content = sort_files(files, folder.resolve().name)
    return content._replace(aside=aside + content.aside)


def _require_name(path: Path) -> None:
    """Refuse an input whose name, or whose folder's, can't become a case's."""
    resolved = path.resolve()
    if holds_control(path.name) or holds_control(resolved.name if path.is_dir() else resolved.parent.name):
        raise ScoringError(
            f"the name of {printable(str(path))} or of its folder holds a line break or another control character: "
            "rename it"
        )


def _below(folder: Path, limit: MemberLimit) -> list[FolderFile]:
    try:
        return files_below(folder, limit)
    except OSError as problem:
        where = printable(str(problem.filename or folder))
        raise ScoringError(f"{where} can't be read ({problem.strerror}): allow it or remove it") from None


def find_images(
    inputs: list[Path],
    rejected: Callable[[str, str], None],
    limit: MemberLimit = USUAL_LIMIT,
    noted: Callable[[str], None] = lambda _: None,
) -> Iterator[Found]:
    """Every image of the inputs, one after the other; slides and their parts are passed over.

    Args:
        inputs: files, folders and archives.
        rejected: is told the reason and name of each other file or member,
        limit: how many members an archive or a folder may have.
        noted: is told the name of each text or table, which nobody takes for an image, instead.

    Raises:
        ArchiveError: an archive can't be read, or holds too many members.
        ScoringError: a folder can't be read.
    """

    def aside(reason: str, name: str) -> None:
        if reason == NOTES:
            noted(printable(name))
        else:
            rejected(reason, printable(name))

    parts = set(parts_of_slides([NamedFile(path.name, path) for path in inputs if path.is_file()]))
    for path in inputs:
        if path.is_dir():
            yield from _in_folder(path, aside, limit)
        elif path.name.lower().endswith(ARCHIVES):
            yield from _in_archive(path, aside, limit)
        elif path.suffix.lower() in IMAGES and path not in parts and not is_slide(path):
            yield _named(path.name, path.parent.resolve().name, _reader(path))


def _in_folder(folder: Path, set_aside: Callable[[str, str], None], limit: MemberLimit) -> Iterator[Found]:
    content = _content(folder, limit)
    for name, reason in content.aside:
        set_aside(reason, name)
    for name, path in content.images:
        yield _named(name, folder.resolve().name, _reader(path))


def _in_archive(path: Path, set_aside: Callable[[str, str], None], limit: MemberLimit) -> Iterator[Found]:
    try:
        opened = open_archive(path, limit)
    except FileNotFoundError:
        raise ArchiveError(f"{path} is missing: correct the path") from None
    with closing(opened) as archive:
        chosen = []
        for member in archive.members:
            ending = Path(member.name).suffix.lower()
            if is_leftover(member.name):
                continue
            if ending in SLIDES:
                set_aside(SLIDE_IN_ARCHIVE, member.name)
            elif ending in IMAGES or member.fault:
                try:
                    check_member(member)
                except MemberRejected as reason:
                    set_aside(str(reason), member.name)
                    continue
                chosen.append(member)
            else:
                why = reason_aside(Path(member.name))
                set_aside(ARCHIVE_INSIDE if why == ARCHIVE_IN_FOLDER else why, member.name)
        for member, payload in zip(chosen, archive.payloads(chosen), strict=True):
            yield _named(member.name, path.name.partition(".")[0], payload)


def _named(file: str, container: str, read: Callable[[], bytes]) -> Found:
    file, container = printable(with_slashes(file)), printable(container)
    folder, _, last = file.rpartition("/")
    case, place = _CASE.match(last), _PLACE.search(last)
    case_id = case["case"] if case else folder.partition("/")[0] or container
    return Found(file, case_id, int(place["x"]) if place else None, int(place["y"]) if place else None, read)


def _reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            if path.stat().st_size > LONGEST_FILE:
                raise MemberRejected("too large for a patch")
            return path.read_bytes()
        except OSError:
            raise MemberRejected("can't be read") from None

    return read


def folder_key(out: Path) -> str:
    """A word that tells gradings into different folders apart, for locks and records of failures."""
    return re.sub(r"[^A-Za-z0-9]+", "_", out.name) or "here"
