"""The inputs of a prediction: image files, whole slides, folders of both, and archives, in any layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from histopipe.core.cases.ids import normal_id
from histopipe.core.errors import ArchiveError, PredictionError
from histopipe.core.names import CONTROL_IN_NAME, escape_control_characters, has_control_characters, with_slashes
from histopipe.core.system_files import is_leftover
from histopipe.inference.case_naming import SECOND_COPY, CaseNamer, ImageName
from histopipe.inference.file_kinds import (
    ARCHIVE_IN_FOLDER,
    ARCHIVES,
    IMAGES,
    NOTES,
    OTHER,
    FolderContent,
    NamedFile,
    SlideFile,
    distinct_series,
    explain_ignored_file,
    parts_of_slides,
    sort_files,
)
from histopipe.inference.slides.dicom import is_dicom
from histopipe.inference.slides.slide import SLIDES, is_slide
from histopipe.ingest.archives.limits import DEFAULT_LIMIT, MemberLimit
from histopipe.ingest.archives.reading import open_archive, require_usable_member
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.folders import FolderFile, list_files
from histopipe.ingest.images import MAX_PIXELS

SLIDE_IN_ARCHIVE = "a slide in an archive: unpack it"
ARCHIVE_INSIDE = "an archive in an archive: unpack it"
DEEPEST = 100  # innermost folders of an image that are searched for its case: hostile names hold thousands
LONGEST_FILE = 4 * MAX_PIXELS + 2**20  # bytes of an image that is read, uncompressed with transparency


class ImageInput(NamedTuple):
    """An image to predict.

    Attributes:
        file: its name in the table of predictions.
        case_id: its case, from `histopipe.inference.case_naming`.
        x, y: its position on the slide in pixels, from its name; None if the name holds none.
        read: reads its bytes; raises MemberRejected if it is damaged.
    """

    file: str
    case_id: str
    x: int | None
    y: int | None
    read: Callable[[], bytes]


class SlideInput(NamedTuple):
    """A whole slide to predict.

    Attributes:
        path: the path of its file.
        file: its name in the table of predictions.
        case_id: the file's name without its ending, or the name of a folder that holds only this slide's files.
            Several slides may have the same one until `distinct_slides` numbers them.
    """

    path: Path
    file: str
    case_id: str


def find_slides(inputs: list[Path], limit: MemberLimit = DEFAULT_LIMIT) -> list[SlideInput]:
    """Find all whole slides among the inputs and in their folders.

    Raises:
        PredictionError: an input is missing, can't be read, has a line break in its name, or is no image, slide, folder
            or archive.
        ArchiveError: a folder holds more files than `limit` allows.
    """
    slides = _slide_files(inputs, limit)
    return [
        SlideInput(
            slide.path, escape_control_characters(slide.name), normal_id(escape_control_characters(slide.case)) or "_"
        )
        for slide in slides
    ]


def distinct_slides(slides: list[SlideInput], taken: Collection[str]) -> list[SlideInput]:
    """Make case ids of slides unique: append a number to one that another slide has, or that patches have (`taken`)."""
    distinct: list[SlideInput] = []
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
            raise PredictionError(f"{path} is missing: correct the path")
        elif is_slide(path) or (path.suffix.lower() not in IMAGES and is_dicom(path)):
            yield SlideFile(path.name, path, path.stem)
        elif not path.name.lower().endswith(ARCHIVES) and path.suffix.lower() not in IMAGES:
            reason = explain_ignored_file(path)
            if reason in (OTHER, NOTES):
                reason = "no image, slide, folder or archive of patches: give one of these"
            raise PredictionError(f"{path} is {reason}")


def _content(folder: Path, limit: MemberLimit) -> FolderContent:
    """Sort the files of a folder; names that can't be used and broken links are set aside."""
    files, ignored = [], []
    for file in _list_files(folder, limit):
        control = (
            CONTROL_IN_NAME if has_control_characters(file.name) and explain_ignored_file(file.path) != NOTES else None
        )
        if fault := file.fault or control:
            ignored.append((file.name, fault))
        else:
            files.append(NamedFile(file.name, file.path))
    content = sort_files(files, folder.resolve().name)
    return content._replace(ignored=ignored + content.ignored)


def _require_name(path: Path) -> None:
    """Refuse an input if its name or its folder's can't be used as a case id."""
    resolved = path.resolve()
    if has_control_characters(path.name) or has_control_characters(
        resolved.name if path.is_dir() else resolved.parent.name
    ):
        raise PredictionError(
            f"the name of {escape_control_characters(str(path))} or of its folder holds a line break or another "
            "control character: rename it"
        )


def _list_files(folder: Path, limit: MemberLimit) -> list[FolderFile]:
    try:
        return list_files(folder, limit)
    except OSError as problem:
        where = escape_control_characters(str(problem.filename or folder))
        raise PredictionError(f"{where} can't be read ({problem.strerror}): allow it or remove it") from None


class _Source(NamedTuple):
    """The images of one input, with a function that yields readers for those with the given numbers."""

    images: list[ImageName]
    readers: Callable[[list[int]], Iterator[Callable[[], bytes]]]


def find_images(
    inputs: list[Path],
    on_rejected: Callable[[str, str], None],
    limit: MemberLimit = DEFAULT_LIMIT,
    on_note: Callable[[str], None] = lambda _: None,
    namer: CaseNamer | None = None,
) -> Iterator[ImageInput]:
    """Yield the images of the inputs; whole slides and their parts are skipped.

    Args:
        inputs: files, folders and archives. All are listed before the first image is yielded, since a case is
            recognised from the names of all images together.
        on_rejected: called with the reason and the name of each other file or member.
        limit: the number of members that an archive or a folder may have.
        on_note: called, instead of `on_rejected`, with the name of each text or table file.
        namer: names the cases and collects remarks; by default the one of IDC.

    Yields:
        The images with their cases.

    Raises:
        ArchiveError: an archive can't be read, or holds too many members.
        PredictionError: a folder can't be read.
    """
    namer = namer or CaseNamer.for_data_set("idc", ())

    def set_aside(reason: str, name: str) -> None:
        if reason == NOTES:
            on_note(escape_control_characters(name))
        else:
            on_rejected(reason, escape_control_characters(name))

    with ExitStack() as opened:
        sources = list(_sources(inputs, set_aside, limit, opened))
        images = [image for source in sources for image in source.images]
        names = namer.name(images)
        copies = namer.second_copies(images, names)
        for number in sorted(copies):
            on_rejected(SECOND_COPY, images[number].file)
        start = 0
        for source in sources:
            chosen = [number for number in range(len(source.images)) if start + number not in copies]
            for number, read in zip(chosen, source.readers(chosen), strict=True):
                name = names[start + number]
                yield ImageInput(source.images[number].file, name.case_id, name.x, name.y, read)
            start += len(source.images)


def _sources(
    inputs: list[Path], set_aside: Callable[[str, str], None], limit: MemberLimit, opened: ExitStack
) -> Iterator[_Source]:
    parts = set(parts_of_slides([NamedFile(path.name, path) for path in inputs if path.is_file()]))
    for number, path in enumerate(inputs, start=1):
        if path.is_dir():
            yield _source_of_folder(path, number, set_aside, limit)
        elif path.name.lower().endswith(ARCHIVES):
            yield _source_of_archive(path, number, set_aside, limit, opened)
        elif path.suffix.lower() in IMAGES and path not in parts and not is_slide(path):
            yield _source_of_files([(path.name, path)], 0)


def _source_of_files(files: Sequence[tuple[str, Path]], source: int) -> _Source:
    """Return the source of files on disk, given with their names in the table."""
    parents = {path.parent: path.parent.resolve() for _, path in files}
    images = [
        ImageName(
            escape_control_characters(with_slashes(name)),
            _folders_on_disk(parents[path.parent], path.name),
            1,
            source,
            str(parents[path.parent] / path.name),
        )
        for name, path in files
    ]
    return _Source(images, lambda chosen: (_reader(files[number][1]) for number in chosen))


def _folders_on_disk(parent: Path, name: str) -> tuple[str, ...]:
    """Return the folders of a file; files unpacked from archives of Windows may have some of them in their name."""
    if "\\" not in name:
        return parent.parts
    return (*parent.parts, *with_slashes(name).split("/")[:-1])


def _source_of_folder(folder: Path, number: int, set_aside: Callable[[str, str], None], limit: MemberLimit) -> _Source:
    content = _content(folder, limit)
    for name, reason in content.ignored:
        set_aside(reason, name)
    return _source_of_files([(name, path) for name, path in content.images], number)


def _source_of_archive(
    path: Path, number: int, set_aside: Callable[[str, str], None], limit: MemberLimit, opened: ExitStack
) -> _Source:
    try:
        archive = opened.enter_context(closing(open_archive(path, limit)))
    except FileNotFoundError:
        raise ArchiveError(f"{path} is missing: correct the path") from None
    members = []
    for member in archive.members:
        ending = Path(member.name).suffix.lower()
        if is_leftover(member.name):
            continue
        if ending in SLIDES:
            set_aside(SLIDE_IN_ARCHIVE, member.name)
        elif ending in IMAGES or member.fault:
            try:
                require_usable_member(member)
            except MemberRejected as problem:
                set_aside(str(problem), member.name)
                continue
            members.append(member)
        else:
            reason = explain_ignored_file(Path(member.name))
            set_aside(ARCHIVE_INSIDE if reason == ARCHIVE_IN_FOLDER else reason, member.name)
    around = (*path.resolve().parent.parts, path.name)
    images = [_image_in_archive(member.name, around, number) for member in members]
    return _Source(images, lambda numbers: archive.payloads([members[number] for number in numbers]))


def _image_in_archive(name: str, around: tuple[str, ...], source: int) -> ImageName:
    file = escape_control_characters(with_slashes(name))
    folders = tuple(part for part in file.split("/")[:-1] if part not in ("", "."))
    return ImageName(file, (*around, *folders[-DEEPEST:]), len(around), source, name)


def _name_member(file: str, container: str, read: Callable[[], bytes]) -> ImageInput:
    """Return an image of an archive called `container`, with the case from its name there."""
    image = _image_in_archive(file, (escape_control_characters(container) or "_",), 0)
    name = CaseNamer.for_data_set("idc", ()).name([image])[0]
    return ImageInput(image.file, name.case_id, name.x, name.y, read)


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
    """Return a name for an output folder that locks and records of failures use to distinguish predictions."""
    return re.sub(r"[^A-Za-z0-9]+", "_", out.name) or "here"
