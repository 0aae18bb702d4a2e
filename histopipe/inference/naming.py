"""What case an image belongs to, by its name and the folders it lies in: the same wherever the image comes from.

The first that tells it decides: the data set's manifest, where it lists every image of an input; the data set's own way
of naming patches; a place on a slide in the name, of which the slide stands before it; the innermost folder that isn't
one of a class. Two folders of one name stay two cases, and get the names of those around them.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from histopipe.core.cases.ids import normal_id, spelt
from histopipe.core.cases.readings import Reading
from histopipe.core.errors import ParamsError, SourceError
from histopipe.core.names import printable
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace
from histopipe.ingest.datasets import Dataset, get_dataset, list_datasets
from histopipe.ingest.datasets.manifest import load_manifest_dataset
from histopipe.ingest.datasets.matching import match_files

LOG = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SECOND_COPY = "second copy"  # as ingest calls it
LABELS = frozenset({"0", "1"})  # folders of classes, unless they lie among other numbers
NO_SLIDES = frozenset({"", "tile", "patch", "crop", "img", "image"})  # before a place: these name no slide

# nine digits of pixels: tables keep places as 32-bit integers
_PLACE = re.compile(
    r"(?:^|[ _.\-])x[_=\-]?(?P<x>[0-9]{1,9})[ _,\-]{1,2}y[_=\-]?(?P<y>[0-9]{1,9})(?=[ _.\-]|$)", re.IGNORECASE
)
_QUPATH = re.compile(
    r" ?\[(?:d=[0-9.]{1,20},)?x=(?P<x>[0-9]{1,9}),y=(?P<y>[0-9]{1,9}),w=[0-9]+,h=[0-9]+[^\[\]]{0,40}\]"
)
_TWO_NUMBERS = re.compile(r"[_\-][0-9]{1,20}[_\-][0-9]{1,20}$")

Folders = tuple[str, ...]


class ImageName(NamedTuple):
    """Where an image is.

    Attributes:
        file: how the table names it.
        folders: in which it lies, outermost first; an archive counts as one.
        outermost: how many of them, from the front, can't be those of a class: an archive and what it lies in.
        source: number of the input.
        listed_as: how a manifest may have it.
    """

    file: str
    folders: Folders
    outermost: int
    source: int
    listed_as: str

    @property
    def last(self) -> str:
        """Its own name."""
        return self.file.rpartition("/")[2]


class CaseName(NamedTuple):
    """What the name tells.

    Attributes:
        x, y: place on the slide, in pixels; None where nothing tells it.
        by: what told the case.
    """

    case_id: str
    x: int | None
    y: int | None
    by: str


@dataclass
class CaseNamer:
    """Names the cases of images.

    Attributes:
        dataset: that the model is of; None for a set of which nothing is known.
        classes: what its classes are called, in small letters; folders of these names are no cases.
        counts: for the summary, how many images were named by what, and what was odd.
        remarks: lines for whoever looks on.
    """

    dataset: Dataset | None = None
    classes: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        dataset: str,
        classes: Iterable[str],
        workspace: Workspace | None = None,
        reading: Reading | None = None,
        listed: bool = False,
    ) -> CaseNamer:
        """Return the namer of a data set: built in, or by the manifest that was fetched with its archive.

        Args:
            dataset: the data set's name.
            classes: what its classes are called.
            workspace: may hold the manifest, and says in `params.yaml` what counts as one case.
            reading: what counts as one case, where a model's cases tell it.
            listed: whether it is a data set of the user's own, though it may have a built-in one's name.

        Raises:
            SourceError: the manifest isn't what it should be.
        """
        manifest = workspace.raw(dataset) / "manifest.csv" if workspace else None
        described = None
        if dataset in list_datasets() and not listed:
            described = get_dataset(dataset, case=reading or _reading_here(dataset, workspace))
        if manifest and manifest.is_file():
            described = load_manifest_dataset(dataset, manifest, (1, 1))
        own = described.classes if described else ()
        return cls(described, frozenset(name.casefold() for name in (*classes, *own)))

    def name(self, images: Sequence[ImageName]) -> list[CaseName]:
        """Name the cases of all images of a call together; what is odd is counted and remarked on."""
        cut = self._without_classes(images)
        names = self._by_manifest(images)
        places = {number: _place(image.last) for number, image in enumerate(images)}
        for number, image in enumerate(images):
            own = self.dataset.read_case(image.last) if number not in names and self.dataset else None
            if own:
                names[number] = CaseName(normal_id(own), *places[number][1:], "data set")
        self._by_place(images, names, places, cut)
        self._by_folder(images, names, places, cut)
        named = [names[number] for number in range(len(images))]
        self.counts.update(f"by {name.by}" for name in named)
        self._note_doubled(images, named)
        return named

    def second_copies(self, images: Sequence[ImageName], named: Sequence[CaseName]) -> set[int]:
        """Numbers of images that the data set's own names tell to be copies, which ingest leaves out as well."""
        order = sorted(range(len(images)), key=lambda number: images[number].file.count("/"))
        first: dict[tuple[str, Folders], int] = {}
        for number in order:
            if named[number].by == "data set":
                labels = tuple(part for part in map(str.casefold, images[number].folders) if part in self.classes)
                first.setdefault((images[number].last, tuple(dict.fromkeys(labels))), number)
        kept = set(first.values())
        return {number for number, name in enumerate(named) if name.by == "data set" and number not in kept}

    def _by_manifest(self, images: Sequence[ImageName]) -> dict[int, CaseName]:
        if self.dataset is None or self.dataset.listed is None:
            return {}
        sources: dict[int, list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            sources[image.source].append(number)
        names: dict[int, CaseName] = {}
        for numbers in sources.values():
            try:
                rows = match_files(self.dataset.listed, [images[number].listed_as for number in numbers]).rows
            except SourceError:  # not certain, so not by it
                continue
            if all(images[number].listed_as in rows for number in numbers):
                for number in numbers:
                    told = self.dataset.read_name(rows[images[number].listed_as])
                    assert told is not None  # it is listed
                    place = (told.x, told.y) if told.x is not None else _place(images[number].last)[1:]
                    names[number] = CaseName(told.case_id, *place, "manifest")
        return names

    def _without_classes(self, images: Sequence[ImageName]) -> dict[Folders, Folders]:
        """The folders without those of classes at their end, by the folders."""
        outermost = {image.folders: image.outermost for image in images}
        children: dict[Folders, set[str]] = defaultdict(set)
        for folders in outermost:
            for depth in range(1, len(folders)):
                children[folders[:depth]].add(folders[depth])
        cut = {}
        for folders, least in outermost.items():
            left = folders
            while len(left) > least and self._is_class(left, children[left[:-1]]):
                left = left[:-1]
            cut[folders] = left
        return cut

    def _is_class(self, folders: Folders, siblings: Collection[str]) -> bool:
        last = folders[-1]
        if last.casefold() in self.classes:
            return True
        if last not in LABELS:
            return False
        beside = set(siblings) | _numbers_beside(folders)
        return all(name in LABELS or name.casefold() in self.classes for name in beside)

    def _by_place(
        self,
        images: Sequence[ImageName],
        names: dict[int, CaseName],
        places: dict[int, tuple[str, int | None, int | None]],
        cut: dict[Folders, Folders],
    ) -> None:
        """Name what stands before a place a slide; where two folders have one place of it, they hold two slides."""
        slides: dict[str, list[int]] = defaultdict(list)
        for number, (slide, x, _) in places.items():
            if number not in names and x is not None and slide.casefold() not in NO_SLIDES:
                slides[slide].append(number)
        for slide, numbers in slides.items():
            spots: dict[Folders, set[object]] = defaultdict(set)
            for number in numbers:
                spots[cut[images[number].folders]].add(places[number][1:])
            divided = len(spots) > 1 and sum(map(len, spots.values())) > len(set().union(*spots.values()))
            folders = _distinct_names(spots) if divided else {}
            if divided:
                self._remark("divided", f"{spelt(slide)} has the same places in {len(spots)} folders: so many slides")
            for number in numbers:
                folder = folders.get(cut[images[number].folders])
                names[number] = CaseName(f"{folder}/{slide}" if folder else slide, *places[number][1:], "place")

    def _by_folder(
        self,
        images: Sequence[ImageName],
        names: dict[int, CaseName],
        places: dict[int, tuple[str, int | None, int | None]],
        cut: dict[Folders, Folders],
    ) -> None:
        left = [number for number in range(len(images)) if number not in names]
        folders = _distinct_names({cut[images[number].folders] for number in left})
        beginnings: dict[str, set[str]] = defaultdict(set)
        for number in left:
            case = folders[cut[images[number].folders]]
            names[number] = CaseName(case, *places[number][1:], "folder")
            if before := _before_two_numbers(images[number].last.rpartition(".")[0]):
                beginnings[case].add(before)
        several_folders = [case for folder, case in folders.items() if case != _shown(folder[-1:])]
        if several_folders:
            shown = " and ".join(map(spelt, sorted(several_folders)[:2]))
            self._remark("same_folder_names", f"{len(several_folders)} folders share their names with others: {shown}")
        for case, several in beginnings.items():
            if len(several) > 1:
                shown = " and ".join(sorted(several)[:2])
                self._remark(
                    "several_names",
                    f"{spelt(case)} holds images called {shown} and two numbers: one case as it is; if the numbers are "
                    "places and these are slides, call the images SLIDE_x0_y0",
                )

    def _note_doubled(self, images: Sequence[ImageName], named: Sequence[CaseName]) -> None:
        copies = self.second_copies(images, named)
        spots = Counter(name[:3] for number, name in enumerate(named) if name.x is not None and number not in copies)
        doubled = [spot for spot, count in spots.items() if count > 1]
        self.counts["places_told_twice"] = len(doubled)
        if doubled:
            case, x, y = doubled[0]
            self._remark(
                "doubled",
                f"{len(doubled):,} places are told by more than one image, first x {x}, y {y} of {spelt(case)}: "
                "maps show the last one of each",
            )

    def _remark(self, kind: str, line: str) -> None:
        self.counts[kind] += 1
        self.remarks.append(line)


def _reading_here(dataset: str, workspace: Workspace | None) -> Reading | None:
    try:
        return read_params(workspace.params).case_reading(dataset) if workspace else None
    except ParamsError:  # patches are also named where there is no checkout
        return None


def _before_two_numbers(name: str) -> str:
    """Return what stands before two numbers at a name's end; nothing where that is no name either.

    The end is looked for by itself: a name of 64 kB may hold what a pattern for the whole would try again and again.
    """
    match = _TWO_NUMBERS.search(name)
    before = name[: match.start()] if match else ""
    return before if before.strip("0123456789_-") else ""


def _place(last: str) -> tuple[str, int | None, int | None]:
    """What stands before a place in an image's name, and the place; None where the name tells none."""
    match = _QUPATH.search(last) or _PLACE.search(last)
    if match is None:
        return "", None, None
    return normal_id(last[: match.start()].rstrip(" _.-")), int(match["x"]), int(match["y"])


def _numbers_beside(folders: Folders) -> set[str]:
    """Folders on disk that are numbered like this one, also those that weren't asked for."""
    try:
        beside = Path(*folders[:-1]).iterdir() if folders[0] == "/" else iter(())
        return {path.name for path in beside if path.name.isdigit() and path.is_dir()}
    except OSError:  # in an archive
        return set()


def _distinct_names(groups: Iterable[Folders]) -> dict[Folders, str]:
    """The last folder's name for each, with as many of those around it as tell it from the others of that name."""
    alike: dict[str, list[Folders]] = defaultdict(list)
    for folders in sorted(groups):
        alike[_shown(folders[-1:])].append(folders)
    names: dict[Folders, str] = {}
    for same in alike.values():
        depths = range(1, max(map(len, same)) + 1)  # each tells apart at least as many as the one before
        place = bisect_left(depths, len(same), key=partial(_count_names, same))
        depth = depths[place] if place < len(depths) else 1
        seen: Counter[str] = Counter()
        for folders in same:
            name = _shown(folders[-depth:])
            seen[name] += 1
            names[folders] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def _count_names(groups: Sequence[Folders], depth: int) -> int:
    return len({_shown(folders[-depth:]) for folders in groups})


def _shown(folders: Folders) -> str:
    """Folders' names as those of a case, archives without their endings."""
    return "/".join(_shown_part(part) for part in folders if part != "/") or "_"


@lru_cache(maxsize=1024)
def _shown_part(part: str) -> str:
    return normal_id(printable(_without_ending(part))) or "_"


def _without_ending(name: str) -> str:
    ending = max((ending for ending in ARCHIVES if name.lower().endswith(ending)), key=len, default="")
    return name[: len(name) - len(ending)] or name
