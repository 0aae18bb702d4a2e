"""Which members of an archive are patches, and why the others are not; decided by name, before any is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from histopipe.core.names import printable, with_slashes
from histopipe.core.system_files import is_leftover, leftovers_among
from histopipe.ingest.archives.member import Member
from histopipe.ingest.archives.reading import check_member
from histopipe.ingest.datasets import OTHER_MAGNIFICATION, Dataset, MemberRejected, PatchName
from histopipe.ingest.datasets.matching import Matching, match_files

NOT_A_PATCH = "not a patch file"
SECOND_COPY = "second copy"
NOT_IN_ARCHIVE = "listed in the manifest but not in the archive"
INNER_ARCHIVE = "archive within the archive that can't be read there (only an intact zip that is stored as it is)"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
HARMLESS = frozenset({NOT_A_PATCH, OTHER_MAGNIFICATION, SECOND_COPY})  # reasons that say nothing against the archive


@dataclass
class SetAside:
    """Members that are not used, by reason."""

    files: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, file: str) -> None:
        """Note one member; what of its name isn't text, or breaks lines, is spelt out."""
        self.files[reason].append(printable(file))

    @property
    def bad(self) -> int:
        """How many of them ought to have been usable."""
        return sum(len(files) for reason, files in self.files.items() if reason not in HARMLESS)


class Planned(NamedTuple):
    """A member that by its name is a patch."""

    member: Member
    name: PatchName


@dataclass(frozen=True)
class Plan:
    """What to read from an archive, in the archive's order."""

    patches: list[Planned]
    set_aside: SetAside
    matching: Matching | None = None  # of a manifest


def plan_ingest(members: Sequence[Member], dataset: Dataset) -> Plan:
    """Sort an archive's members into patches and those set aside.

    Raises:
        SourceError: a name in the manifest may mean two members, or two names mean one.
    """
    set_aside = SetAside()
    names = [member.name for member in members]
    leftovers = leftovers_among(names)
    matching = _matching(names, dataset, leftovers)
    candidates = list(_named(members, dataset, matching, leftovers, set_aside))
    if dataset.listed is None or matching is None:
        candidates = _without_copies(candidates, set_aside)
        candidates = _without_contradictions(candidates, set_aside)
        candidates = _without_double_labels(candidates, set_aside)
    else:
        for file in sorted(dataset.listed - set(matching.rows.values())):
            # a table made of a folder's content may list what an operating system left in it
            set_aside.add(NOT_A_PATCH if is_leftover(with_slashes(file)) else NOT_IN_ARCHIVE, file)
    return Plan(candidates, set_aside, matching)


def _matching(names: list[str], dataset: Dataset, leftovers: frozenset[str]) -> Matching | None:
    if dataset.listed is None:
        return None
    names = [name for name in names if name not in leftovers] if leftovers else names
    others = dataset.listed.difference(names)  # rows are most often the names that are there
    left = {row for row in others if is_leftover(with_slashes(row))}
    return match_files(dataset.listed - left, names, dataset.manifest)


def _named(
    members: Iterable[Member],
    dataset: Dataset,
    matching: Matching | None,
    leftovers: frozenset[str],
    set_aside: SetAside,
) -> Iterable[Planned]:
    seen: set[str] = set()
    rows = matching.rows if matching else {}
    for member in members:
        if member.name in leftovers:
            set_aside.add(NOT_A_PATCH, member.name)
            continue
        file = rows.get(member.name, member.name)
        try:
            check_member(member)
            name = dataset.read_name(file)
            if name is not None and file in seen:
                raise MemberRejected("name stands twice in the archive")
        except MemberRejected as reason:
            set_aside.add(str(reason), member.name)
            continue
        seen.add(file)
        if name is None:
            set_aside.add(INNER_ARCHIVE if file.lower().endswith(ARCHIVES) else NOT_A_PATCH, member.name)
        else:
            yield Planned(member, name)


def _without_copies(candidates: list[Planned], set_aside: SetAside) -> list[Planned]:
    """Keep one of several members with the same last name and label: the one least deep in folders.

    Kaggle's archives hold every patch of IDC a second time under `IDC_regular_ps50_idx5/`, and every cell of malaria
    under `cell_images/cell_images/`, where only the folder tells the label.
    """
    if len({(_last_name(planned), planned.name.label) for planned in candidates}) == len(candidates):
        return candidates
    kept: dict[tuple[str, int], Planned] = {}
    for planned in sorted(candidates, key=lambda planned: planned.member.name.count("/")):
        first = kept.setdefault((_last_name(planned), planned.name.label), planned)
        if first is not planned:
            set_aside.add(_why_copy(first.member, planned.member), planned.member.name)
    chosen = {planned.member.name for planned in kept.values()}  # not offset: entries of a zip may share one
    return [planned for planned in candidates if planned.member.name in chosen]


def _last_name(planned: Planned) -> str:
    return planned.member.name.rsplit("/", 1)[-1]


def _why_copy(first: Member, second: Member) -> str:
    same = first.crc == second.crc and first.size == second.size
    return SECOND_COPY if same or first.crc is None else "second copy with other content"


def _without_contradictions(candidates: list[Planned], set_aside: SetAside) -> list[Planned]:
    """Leave out places of a slide that carry both labels: nothing tells which one is right."""
    labels: dict[tuple[str, int | None, int | None], int] = {}
    contradicted = set()
    for planned in candidates:
        place, label = _place(planned), planned.name.label
        if labels.setdefault(place, label) != label and planned.name.x is not None:
            contradicted.add(place)
    for planned in candidates if contradicted else []:
        if _place(planned) in contradicted:
            set_aside.add("both labels for one place", planned.member.name)
    return [planned for planned in candidates if _place(planned) not in contradicted] if contradicted else candidates


def _without_double_labels(candidates: list[Planned], set_aside: SetAside) -> list[Planned]:
    """Leave out files that lie, with the same name and content, in the folders of both classes."""
    labels: dict[tuple[str, int | None], int] = {}
    doubled = set()
    for member, name in candidates:
        # Where the name tells a place, the check of places has seen to it.
        if name.x is None and labels.setdefault(_content(member), name.label) != name.label:
            doubled.add(_content(member))
    for member, _ in candidates if doubled else []:
        if _content(member) in doubled:
            set_aside.add("both labels for one image", member.name)
    return [planned for planned in candidates if _content(planned.member) not in doubled] if doubled else candidates


def _content(member: Member) -> tuple[str, int | None]:
    return member.name.rsplit("/", 1)[-1], member.crc


def _place(planned: Planned) -> tuple[str, int | None, int | None]:
    return planned.name.case_id, planned.name.x, planned.name.y
