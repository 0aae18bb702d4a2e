"""What is to be graded: image files, whole slides, folders of both, and archives, in any layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from histopipe.core.cases.ids import normal_id
from histopipe.core.errors import ArchiveError, ScoringError
from histopipe.core.names import CONTROL_IN_NAME, holds_control, printable, with_slashes
from histopipe.core.system_files import is_leftover
from histopipe.inference.kinds import (
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
from histopipe.inference.naming import SECOND_COPY, CaseNamer, ImageName
from histopipe.inference.slides.dicom import is_dicom
from histopipe.inference.slides.slide import SLIDES, is_slide
from histopipe.ingest.archives.limits import DEFAULT_LIMIT, MemberLimit
from histopipe.ingest.archives.reading import check_member, open_archive
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.folders import FolderFile, list_files
from histopipe.ingest.images import MAX_PIXELS

SLIDE_IN_ARCHIVE = "a slide in an archive: unpack it"
ARCHIVE_INSIDE = "an archive in an archive: unpack it"
DEEPEST = (
    100  # folders around an image, the innermost ones, that are looked at for its case: hostile names hold thousands
)
LONGEST_FILE = 4 * MAX_PIXELS + 2**20  # bytes of an image that is read, uncompressed with transparency


class Found(NamedTuple):
    """An image that may be graded.

    Attributes:
        file: how the table names it.
        case_id: what it belongs to, as `histopipe.inference.naming` tells it.
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


def find_slides(inputs: list[Path], limit: MemberLimit = DEFAULT_LIMIT) -> list[SlideFound]:
    """Every whole slide among the inputs and in folders of them.

    Raises:
        ScoringError: an input is missing, can't be read, has a line break in its name, or is no image, slide, folder or
            archive.
        ArchiveError: a folder holds more files than `limit` allows.
    """
    slides = _slide_files(inputs, limit)
    return [SlideFound(slide.path, printable(slide.name), normal_id(printable(slide.case)) or "_") for slide in slides]


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
        return list_files(folder, limit)
    except OSError as problem:
        where = printable(str(problem.filename or folder))
        raise ScoringError(f"{where} can't be read ({problem.strerror}): allow it or remove it") from None


class _Source(NamedTuple):
    """Images of one input, and what reads some of them, which are given by number."""

    images: list[ImageName]
    readers: Callable[[list[int]], Iterator[Callable[[], bytes]]]


def find_images(
    inputs: list[Path],
    rejected: Callable[[str, str], None],
    limit: MemberLimit = DEFAULT_LIMIT,
    noted: Callable[[str], None] = lambda _: None,
    namer: CaseNamer | None = None,
) -> Iterator[Found]:
    """Every image of the inputs, one after the other; slides and their parts are passed over.

    Args:
        inputs: files, folders and archives; all are listed before the first image is given, since the names of all
            together tell which of them are of one case.
        rejected: is told the reason and name of each other file or member,
        limit: how many members an archive or a folder may have.
        noted: is told the name of each text or table, which nobody takes for an image, instead.
        namer: names the cases, and is told what was odd; one of IDC's by default.

    Raises:
        ArchiveError: an archive can't be read, or holds too many members.
        ScoringError: a folder can't be read.
    """
    namer = namer or CaseNamer.of("idc", ())

    def aside(reason: str, name: str) -> None:
        if reason == NOTES:
            noted(printable(name))
        else:
            rejected(reason, printable(name))

    with ExitStack() as opened:
        sources = list(_sources(inputs, aside, limit, opened))
        images = [image for source in sources for image in source.images]
        names = namer.name(images)
        copies = namer.second_copies(images, names)
        for number in sorted(copies):
            rejected(SECOND_COPY, images[number].file)
        start = 0
        for source in sources:
            chosen = [number for number in range(len(source.images)) if start + number not in copies]
            for number, read in zip(chosen, source.readers(chosen), strict=True):
                name = names[start + number]
                yield Found(source.images[number].file, name.case_id, name.x, name.y, read)
            start += len(source.images)


def _sources(
    inputs: list[Path], set_aside: Callable[[str, str], None], limit: MemberLimit, opened: ExitStack
) -> Iterator[_Source]:
    parts = set(parts_of_slides([NamedFile(path.name, path) for path in inputs if path.is_file()]))
    for number, path in enumerate(inputs, start=1):
        if path.is_dir():
            yield _in_folder(path, number, set_aside, limit)
        elif path.name.lower().endswith(ARCHIVES):
            yield _in_archive(path, number, set_aside, limit, opened)
        elif path.suffix.lower() in IMAGES and path not in parts and not is_slide(path):
            yield _on_disk([(path.name, path)], 0)


def _on_disk(files: Sequence[tuple[str, Path]], source: int) -> _Source:
    """Files by their names in the table."""
    parents = {path.parent: path.parent.resolve() for _, path in files}
    images = [
        ImageName(
            printable(with_slashes(name)),
            _folders_on_disk(parents[path.parent], path.name),
            1,
            source,
            str(parents[path.parent] / path.name),
        )
        for name, path in files
    ]
    return _Source(images, lambda chosen: (_reader(files[number][1]) for number in chosen))


def _folders_on_disk(parent: Path, name: str) -> tuple[str, ...]:
    """The folders of a file; where what Windows packed was unpacked, some are part of its name."""
    if "\\" not in name:
        return parent.parts
    return (*parent.parts, *with_slashes(name).split("/")[:-1])


def _in_folder(folder: Path, number: int, set_aside: Callable[[str, str], None], limit: MemberLimit) -> _Source:
    content = _content(folder, limit)
    for name, reason in content.aside:
        set_aside(reason, name)
    return _on_disk([(name, path) for name, path in content.images], number)


def _in_archive(
    path: Path, number: int, set_aside: Callable[[str, str], None], limit: MemberLimit, opened: ExitStack
) -> _Source:
    try:
        archive = opened.enter_context(closing(open_archive(path, limit)))
    except FileNotFoundError:
        raise ArchiveError(f"{path} is missing: correct the path") from None
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
    around = (*path.resolve().parent.parts, path.name)
    images = [_in_archive_named(member.name, around, number) for member in chosen]
    return _Source(images, lambda numbers: archive.payloads([chosen[each] for each in numbers]))


def _in_archive_named(name: str, around: tuple[str, ...], source: int) -> ImageName:
    file = printable(with_slashes(name))
    folders = tuple(part for part in file.split("/")[:-1] if part not in ("", "."))
    return ImageName(file, (*around, *folders[-DEEPEST:]), len(around), source, name)


def _named(file: str, container: str, read: Callable[[], bytes]) -> Found:
    """One image of an archive called `container`, by its name there."""
    image = _in_archive_named(file, (printable(container) or "_",), 0)
    name = CaseNamer.of("idc", ()).name([image])[0]
    return Found(image.file, name.case_id, name.x, name.y, read)


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
