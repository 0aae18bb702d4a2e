"""The case of an image, from its name and its folders, wherever the image comes from.

The first of these that applies decides: the data set's manifest, if it lists all images of an input; the data set's
naming of patches; a position on a slide in the name, with the slide's name before it; the innermost folder that isn't
one of a class. Two folders of the same name are two cases, and their names are extended by the folders around them.
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

from histopipe.core.cases.ids import normal_id, spell_out
from histopipe.core.cases.readings import Reading
from histopipe.core.errors import ParamsError, SourceError
from histopipe.core.names import escape_control_characters
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace
from histopipe.ingest.datasets import Dataset, get_dataset, list_datasets
from histopipe.ingest.datasets.manifest import load_manifest_dataset
from histopipe.ingest.datasets.matching import match_files

LOG = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SECOND_COPY = "second copy"  # the reason that ingest uses
LABELS = frozenset({"0", "1"})  # folders of classes, unless there are other numbers next to them
NO_SLIDES = frozenset({"", "tile", "patch", "crop", "img", "image"})  # before a position: these name no slide

# at most nine digits: tables hold positions as 32-bit integers
_PLACE = re.compile(
    r"(?:^|[ _.\-])x[_=\-]?(?P<x>[0-9]{1,9})[ _,\-]{1,2}y[_=\-]?(?P<y>[0-9]{1,9})(?=[ _.\-]|$)", re.IGNORECASE
)
_QUPATH = re.compile(
    r" ?\[(?:d=[0-9.]{1,20},)?x=(?P<x>[0-9]{1,9}),y=(?P<y>[0-9]{1,9}),w=[0-9]+,h=[0-9]+[^\[\]]{0,40}\]"
)
_TWO_NUMBERS = re.compile(r"[_\-][0-9]{1,20}[_\-][0-9]{1,20}$")

Folders = tuple[str, ...]


class ImageName(NamedTuple):
    """The names that locate an image.

    Attributes:
        file: its name in the table of predictions.
        folders: its folders, outermost first; an archive counts as a folder.
        outer_count: number of leading folders that can't be class names: an archive and the folders around it.
        source: the number of its input.
        listed_as: its name in a manifest.
    """

    file: str
    folders: Folders
    outer_count: int
    source: int
    listed_as: str

    @property
    def last(self) -> str:
        """Its name without folders."""
        return self.file.rpartition("/")[2]


class CaseName(NamedTuple):
    """The case and the position that an image's name gives.

    Attributes:
        case_id: the case.
        x, y: the position on the slide, in pixels; None if the name holds none.
        recognised_by: `manifest`, `data set` (its pattern of names), `place` (the position in the name) or `folder`.
    """

    case_id: str
    x: int | None
    y: int | None
    recognised_by: str


@dataclass
class CaseNamer:
    """A namer of the cases of images.

    Attributes:
        dataset: the model's data set; None for one that is neither built in nor has a manifest.
        classes: the names of its classes in lower case; folders of these names are no cases.
        counts: for the summary, the number of images by what named their case, and of oddities.
        remarks: warnings for the user.
    """

    dataset: Dataset | None = None
    classes: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def for_data_set(
        cls,
        dataset: str,
        classes: Iterable[str],
        workspace: Workspace | None = None,
        reading: Reading | None = None,
        has_manifest: bool = False,
    ) -> CaseNamer:
        """Return the namer of a built-in data set, or of one with a manifest that was fetched with its archive.

        Args:
            dataset: the data set's name.
            classes: the names of its classes.
            workspace: the checkout, which may hold the manifest; its `params.yaml` defines what counts as a case.
            reading: what counts as a case, if the model recorded it.
            has_manifest: whether it is a user's data set with a manifest, even if it has the name of a built-in one.

        Raises:
            SourceError: the manifest can't be read.
        """
        manifest = workspace.raw(dataset) / "manifest.csv" if workspace else None
        described = None
        if dataset in list_datasets() and not has_manifest:
            described = get_dataset(dataset, case=reading or _reading_here(dataset, workspace))
        if manifest and manifest.is_file():
            described = load_manifest_dataset(dataset, manifest, (1, 1))
        own = described.classes if described else ()
        return cls(described, frozenset(name.casefold() for name in (*classes, *own)))

    def name(self, images: Sequence[ImageName]) -> list[CaseName]:
        """Name the cases of all images of a call together; oddities are counted and added to the remarks."""
        case_folders = self._remove_class_folders(images)
        names = self._name_by_manifest(images)
        positions = {number: _position(image.last) for number, image in enumerate(images)}
        for number, image in enumerate(images):
            own = self.dataset.read_case(image.last) if number not in names and self.dataset else None
            if own:
                names[number] = CaseName(normal_id(own), *positions[number][1:], "data set")
        self._name_by_position(images, names, positions, case_folders)
        self._name_by_folder(images, names, positions, case_folders)
        named = [names[number] for number in range(len(images))]
        self.counts.update(f"by {name.recognised_by}" for name in named)
        self._remark_on_doubled(images, named)
        return named

    def second_copies(self, images: Sequence[ImageName], named: Sequence[CaseName]) -> set[int]:
        """Return the numbers of images that are copies by the data set's naming, which ingest leaves out as well."""
        order = sorted(range(len(images)), key=lambda number: images[number].file.count("/"))
        first: dict[tuple[str, Folders], int] = {}
        for number in order:
            if named[number].recognised_by == "data set":
                labels = tuple(part for part in map(str.casefold, images[number].folders) if part in self.classes)
                first.setdefault((images[number].last, tuple(dict.fromkeys(labels))), number)
        kept = set(first.values())
        return {number for number, name in enumerate(named) if name.recognised_by == "data set" and number not in kept}

    def _name_by_manifest(self, images: Sequence[ImageName]) -> dict[int, CaseName]:
        if self.dataset is None or self.dataset.listed is None:
            return {}
        sources: dict[int, list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            sources[image.source].append(number)
        names: dict[int, CaseName] = {}
        for numbers in sources.values():
            try:
                rows = match_files(self.dataset.listed, [images[number].listed_as for number in numbers]).rows
            except SourceError:  # the match isn't certain, so the manifest isn't used
                continue
            if all(images[number].listed_as in rows for number in numbers):
                for number in numbers:
                    listed = self.dataset.read_name(rows[images[number].listed_as])
                    assert listed is not None  # all images are in the manifest
                    position = (listed.x, listed.y) if listed.x is not None else _position(images[number].last)[1:]
                    names[number] = CaseName(listed.case_id, *position, "manifest")
        return names

    def _remove_class_folders(self, images: Sequence[ImageName]) -> dict[Folders, Folders]:
        """Return, for each image's folders, the same without folders of classes at their end."""
        outer_counts = {image.folders: image.outer_count for image in images}
        children: dict[Folders, set[str]] = defaultdict(set)
        for folders in outer_counts:
            for depth in range(1, len(folders)):
                children[folders[:depth]].add(folders[depth])
        case_folders = {}
        for folders, least in outer_counts.items():
            left = folders
            while len(left) > least and self._is_class(left, children[left[:-1]]):
                left = left[:-1]
            case_folders[folders] = left
        return case_folders

    def _is_class(self, folders: Folders, siblings: Collection[str]) -> bool:
        last = folders[-1]
        if last.casefold() in self.classes:
            return True
        if last not in LABELS:
            return False
        neighbours = set(siblings) | _numbered_siblings(folders)
        return all(name in LABELS or name.casefold() in self.classes for name in neighbours)

    def _name_by_position(
        self,
        images: Sequence[ImageName],
        names: dict[int, CaseName],
        positions: dict[int, tuple[str, int | None, int | None]],
        case_folders: dict[Folders, Folders],
    ) -> None:
        """Take the name before a position as the slide; if two folders have the same position, they hold two slides."""
        slides: dict[str, list[int]] = defaultdict(list)
        for number, (slide, x, _) in positions.items():
            if number not in names and x is not None and slide.casefold() not in NO_SLIDES:
                slides[slide].append(number)
        for slide, numbers in slides.items():
            spots: dict[Folders, set[object]] = defaultdict(set)
            for number in numbers:
                spots[case_folders[images[number].folders]].add(positions[number][1:])
            divided = len(spots) > 1 and sum(map(len, spots.values())) > len(set().union(*spots.values()))
            folders = _distinct_names(spots) if divided else {}
            if divided:
                self._remark(
                    "divided",
                    f"{spell_out(slide)} has the same positions in {len(spots)} folders: each is taken as a slide",
                )
            for number in numbers:
                folder = folders.get(case_folders[images[number].folders])
                names[number] = CaseName(f"{folder}/{slide}" if folder else slide, *positions[number][1:], "place")

    def _name_by_folder(
        self,
        images: Sequence[ImageName],
        names: dict[int, CaseName],
        positions: dict[int, tuple[str, int | None, int | None]],
        case_folders: dict[Folders, Folders],
    ) -> None:
        left = [number for number in range(len(images)) if number not in names]
        folders = _distinct_names({case_folders[images[number].folders] for number in left})
        beginnings: dict[str, set[str]] = defaultdict(set)
        for number in left:
            case = folders[case_folders[images[number].folders]]
            names[number] = CaseName(case, *positions[number][1:], "folder")
            if before := _before_two_numbers(images[number].last.rpartition(".")[0]):
                beginnings[case].add(before)
        several_folders = [case for folder, case in folders.items() if case != _case_name(folder[-1:])]
        if several_folders:
            shown = " and ".join(map(spell_out, sorted(several_folders)[:2]))
            self._remark("same_folder_names", f"{len(several_folders)} folders share their names with others: {shown}")
        for case, several in beginnings.items():
            if len(several) > 1:
                shown = " and ".join(sorted(several)[:2])
                self._remark(
                    "several_names",
                    f"{spell_out(case)} holds images called {shown} and two numbers, taken as one case; if the numbers "
                    "are positions and these are slides, name the images SLIDE_x0_y0",
                )

    def _remark_on_doubled(self, images: Sequence[ImageName], named: Sequence[CaseName]) -> None:
        copies = self.second_copies(images, named)
        spots = Counter(name[:3] for number, name in enumerate(named) if name.x is not None and number not in copies)
        doubled = [spot for spot, count in spots.items() if count > 1]
        self.counts["places_told_twice"] = len(doubled)
        if doubled:
            case, x, y = doubled[0]
            self._remark(
                "doubled",
                f"{len(doubled):,} positions have more than one image, first x {x}, y {y} of {spell_out(case)}: "
                "maps show the last image of each",
            )

    def _remark(self, kind: str, line: str) -> None:
        self.counts[kind] += 1
        self.remarks.append(line)


def _reading_here(dataset: str, workspace: Workspace | None) -> Reading | None:
    try:
        return read_params(workspace.params).case_reading(dataset) if workspace else None
    except ParamsError:  # patches are also predicted outside a checkout
        return None


def _before_two_numbers(name: str) -> str:
    """Return the part of a name before two numbers at its end; empty if that part is only numbers, too.

    Only the end is searched: a pattern for the whole name could backtrack endlessly on a name of 64 kB.
    """
    match = _TWO_NUMBERS.search(name)
    before = name[: match.start()] if match else ""
    return before if before.strip("0123456789_-") else ""


def _position(last: str) -> tuple[str, int | None, int | None]:
    """Split an image's name into the part before a position, and the position; None for a name without one."""
    match = _QUPATH.search(last) or _PLACE.search(last)
    if match is None:
        return "", None, None
    return normal_id(last[: match.start()].rstrip(" _.-")), int(match["x"]), int(match["y"])


def _numbered_siblings(folders: Folders) -> set[str]:
    """Return the numbered folders on disk next to this one, also those that aren't inputs."""
    try:
        siblings = Path(*folders[:-1]).iterdir() if folders[0] == "/" else iter(())
        return {path.name for path in siblings if path.name.isdigit() and path.is_dir()}
    except OSError:  # in an archive
        return set()


def _distinct_names(groups: Iterable[Folders]) -> dict[Folders, str]:
    """Name each folder, with as many of the folders around it as distinguish it from others of its name."""
    groups_by_name: dict[str, list[Folders]] = defaultdict(list)
    for folders in sorted(groups):
        groups_by_name[_case_name(folders[-1:])].append(folders)
    names: dict[Folders, str] = {}
    for same_name in groups_by_name.values():
        depths = range(1, max(map(len, same_name)) + 1)  # each distinguishes at least as many as the one before
        first = bisect_left(depths, len(same_name), key=partial(_count_names, same_name))
        depth = depths[first] if first < len(depths) else 1
        seen: Counter[str] = Counter()
        for folders in same_name:
            name = _case_name(folders[-depth:])
            seen[name] += 1
            names[folders] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def _count_names(groups: Sequence[Folders], depth: int) -> int:
    return len({_case_name(folders[-depth:]) for folders in groups})


def _case_name(folders: Folders) -> str:
    """Join folders to the name of a case; archives lose their endings."""
    return "/".join(_part_of_case_name(part) for part in folders if part != "/") or "_"


@lru_cache(maxsize=1024)
def _part_of_case_name(part: str) -> str:
    return normal_id(escape_control_characters(_without_ending(part))) or "_"


def _without_ending(name: str) -> str:
    ending = max((ending for ending in ARCHIVES if name.lower().endswith(ending)), key=len, default="")
    return name[: len(name) - len(ending)] or name
