"""Selection of the members of an archive that are patches, by name, before any of them is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from histopipe.core.names import escape_control_characters, with_slashes
from histopipe.core.system_files import is_leftover, leftovers_among
from histopipe.ingest.archives.member import Member
from histopipe.ingest.archives.reading import require_usable_member
from histopipe.ingest.datasets import OTHER_MAGNIFICATION, Dataset, MemberRejected, PatchName
from histopipe.ingest.datasets.matching import FileMatching, match_files

NOT_A_PATCH = "not a patch file"
SECOND_COPY = "second copy"
NOT_IN_ARCHIVE = "listed in the manifest but not in the archive"
INNER_ARCHIVE = "archive within the archive (only an undamaged zip that is stored uncompressed can be read)"
_ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
HARMLESS = frozenset(
    {NOT_A_PATCH, OTHER_MAGNIFICATION, SECOND_COPY}
)  # reasons that don't count against `ingest.max_bad`


@dataclass
class UnusedMembers:
    """The members that are not ingested, by reason.

    Attributes:
        files: names of members by reason.
    """

    files: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, file: str) -> None:
        """Record one member; characters in its name that can't be printed are escaped."""
        self.files[reason].append(escape_control_characters(file))

    @property
    def bad_count(self) -> int:
        """Return the number of members that should have been usable."""
        return sum(len(files) for reason, files in self.files.items() if reason not in HARMLESS)


class PlannedPatch(NamedTuple):
    """A member whose name says that it is a patch.

    Attributes:
        member: the member.
        name: case, label and position, read from its name.
    """

    member: Member
    name: PatchName


@dataclass(frozen=True)
class Plan:
    """The outcome of sorting an archive's members.

    Attributes:
        patches: the members to decode, in the archive's order.
        unused: the other members.
        matching: how the names in a manifest were matched; None without a manifest.
    """

    patches: list[PlannedPatch]
    unused: UnusedMembers
    matching: FileMatching | None = None


def plan_ingest(members: Sequence[Member], dataset: Dataset) -> Plan:
    """Sort the members of an archive into patches and unused members.

    Raises:
        SourceError: a name in the manifest may mean two members, or two names mean the same one.

    Example:
        >>> plan = plan_ingest(archive.members, get_dataset("idc"))
        >>> len(plan.patches), plan.unused.bad_count
        (277524, 0)
    """
    unused = UnusedMembers()
    names = [member.name for member in members]
    leftovers = leftovers_among(names)
    matching = _match_manifest(names, dataset, leftovers)
    candidates = list(_select_patches(members, dataset, matching, leftovers, unused))
    if dataset.listed is None or matching is None:
        candidates = _drop_copies(candidates, unused)
        candidates = _drop_contradictions(candidates, unused)
        candidates = _drop_double_labels(candidates, unused)
    else:
        for file in sorted(dataset.listed - set(matching.rows.values())):
            # a table made from a folder's content may list files that the operating system left there
            unused.add(NOT_A_PATCH if is_leftover(with_slashes(file)) else NOT_IN_ARCHIVE, file)
    return Plan(candidates, unused, matching)


def _match_manifest(names: list[str], dataset: Dataset, leftovers: frozenset[str]) -> FileMatching | None:
    if dataset.listed is None:
        return None
    names = [name for name in names if name not in leftovers] if leftovers else names
    missing = dataset.listed.difference(names)  # most rows are names of members, so few remain to be checked
    listed_leftovers = {row for row in missing if is_leftover(with_slashes(row))}
    return match_files(dataset.listed - listed_leftovers, names, dataset.manifest)


def _select_patches(
    members: Iterable[Member],
    dataset: Dataset,
    matching: FileMatching | None,
    leftovers: frozenset[str],
    unused: UnusedMembers,
) -> Iterable[PlannedPatch]:
    """Yield the members that are patches by their names and add the others to `unused`."""
    seen: set[str] = set()
    rows = matching.rows if matching else {}
    for member in members:
        if member.name in leftovers:
            unused.add(NOT_A_PATCH, member.name)
            continue
        file = rows.get(member.name, member.name)
        try:
            require_usable_member(member)
            name = dataset.read_name(file)
            if name is not None and file in seen:
                raise MemberRejected("name occurs twice in the archive")
        except MemberRejected as reason:
            unused.add(str(reason), member.name)
            continue
        seen.add(file)
        if name is None:
            unused.add(INNER_ARCHIVE if file.lower().endswith(_ARCHIVE_ENDINGS) else NOT_A_PATCH, member.name)
        else:
            yield PlannedPatch(member, name)


def _drop_copies(candidates: list[PlannedPatch], unused: UnusedMembers) -> list[PlannedPatch]:
    """Keep one of several members with the same file name and label: the one in the fewest folders.

    Kaggle's archives contain every patch of IDC a second time under `IDC_regular_ps50_idx5/`, and every cell of malaria
    under `cell_images/cell_images/`, where only the folder gives the label.
    """
    if len({(_get_file_name(patch), patch.name.label) for patch in candidates}) == len(candidates):
        return candidates
    kept: dict[tuple[str, int], PlannedPatch] = {}
    for patch in sorted(candidates, key=lambda patch: patch.member.name.count("/")):
        first = kept.setdefault((_get_file_name(patch), patch.name.label), patch)
        if first is not patch:
            unused.add(_choose_copy_reason(first.member, patch.member), patch.member.name)
    kept_names = {patch.member.name for patch in kept.values()}  # not offsets: entries of a zip may share one
    return [patch for patch in candidates if patch.member.name in kept_names]


def _get_file_name(patch: PlannedPatch) -> str:
    return patch.member.name.rsplit("/", 1)[-1]


def _choose_copy_reason(first: Member, second: Member) -> str:
    same = first.crc == second.crc and first.size == second.size
    return SECOND_COPY if same or first.crc is None else "second copy with other content"


def _drop_contradictions(candidates: list[PlannedPatch], unused: UnusedMembers) -> list[PlannedPatch]:
    """Drop all patches at a position of a slide that has both labels, since either may be wrong."""
    labels: dict[tuple[str, int | None, int | None], int] = {}
    contradicted = set()
    for patch in candidates:
        position, label = _get_position(patch), patch.name.label
        if labels.setdefault(position, label) != label and patch.name.x is not None:
            contradicted.add(position)
    for patch in candidates if contradicted else []:
        if _get_position(patch) in contradicted:
            unused.add("both labels for one position", patch.member.name)
    return [patch for patch in candidates if _get_position(patch) not in contradicted] if contradicted else candidates


def _drop_double_labels(candidates: list[PlannedPatch], unused: UnusedMembers) -> list[PlannedPatch]:
    """Drop files that are in the folders of both classes with the same name and content."""
    labels: dict[tuple[str, int | None], int] = {}
    doubled = set()
    for member, name in candidates:
        # patches with a position were checked by _drop_contradictions
        if name.x is None and labels.setdefault(_get_identity(member), name.label) != name.label:
            doubled.add(_get_identity(member))
    for member, _ in candidates if doubled else []:
        if _get_identity(member) in doubled:
            unused.add("both labels for one image", member.name)
    return [patch for patch in candidates if _get_identity(patch.member) not in doubled] if doubled else candidates


def _get_identity(member: Member) -> tuple[str, int | None]:
    return member.name.rsplit("/", 1)[-1], member.crc


def _get_position(patch: PlannedPatch) -> tuple[str, int | None, int | None]:
    return patch.name.case_id, patch.name.x, patch.name.y
