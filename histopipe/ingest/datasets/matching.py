"""Matching of the file names in a manifest with those in an archive or folder that are spelt differently.

Exact matches come first. The remaining names may differ in `./`, the direction of slashes, Unicode normalisation, the
letter case of the extension, and in folders that all of them share: the path of the folder that the archive was made
from, or folders around everything in the archive. Nothing ambiguous is matched.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from histopipe.core.errors import SourceError

if TYPE_CHECKING:
    from histopipe.data.store import ManifestCounts

SAMPLE_NAMES = 100  # names that are tried with a pair of prefixes before all names are
MAX_FOLDERS = 20  # shared folders that may be dropped; hostile archives have thousands
MAX_EXAMPLES = 5  # pairs of names in `report.json`

_ABSOLUTE = re.compile(r"/|\\|[A-Za-z]:[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:(?=[/\\])")

Parts = tuple[str, ...]


@dataclass(frozen=True)
class FileMatching:
    """The outcome of matching a manifest with an archive.

    Attributes:
        rows: the name in the manifest, by the name in the archive.
        listed: number of names in the manifest.
    """

    rows: dict[str, str] = field(default_factory=dict)
    listed: int = 0

    def count_matches(self) -> ManifestCounts:
        """Return the counts for `report.json`, with examples of names that differ."""
        differing = [[row, name] for name, row in self.rows.items() if row != name]
        return {
            "listed": self.listed,
            "matched_as_listed": len(self.rows) - len(differing),
            "matched_otherwise": len(differing),
            "examples": differing[:MAX_EXAMPLES],
        }


def match_files(listed: Collection[str], names: Sequence[str], manifest: str = "the manifest") -> FileMatching:
    """Match the names in a manifest with the files in an archive.

    Args:
        listed: names in the manifest.
        names: names of the files in the archive.
        manifest: name of the manifest in messages.

    Raises:
        SourceError: a listed name may mean two files, or two listed names mean the same file.

    Example:
        >>> match_files([r"scans\\1.PNG"], ["scans/1.png", "notes.txt"]).rows
        {'scans/1.png': 'scans\\\\1.PNG'}
    """
    rows = {name: name for name in names if name in listed} or _match_in_one_folder(listed, names)
    if len(rows) == len(listed):
        return FileMatching(rows, len(listed))
    missing, others = set(listed) - set(rows.values()), [name for name in dict.fromkeys(names) if name not in rows]
    unmatched, candidates = {row: _normalise(row) for row in missing}, {name: _normalise(name) for name in others}
    matched = {_normalise(name): name for name in rows}
    rows |= _match_exactly(unmatched, candidates, matched, manifest)
    matched_rows = set(rows.values())
    unmatched = {row: parts for row, parts in unmatched.items() if row not in matched_rows}
    if rows:  # once some rows match as they are, only absolute paths may lose folders
        unmatched = {row: parts for row, parts in unmatched.items() if _ABSOLUTE.match(row)}
    if unmatched:
        left = {name: parts for name, parts in candidates.items() if name not in rows}
        rows |= _match_without_prefixes(unmatched, left, may_strip_names=not rows, manifest=manifest)
    return FileMatching(rows, len(listed))


def _match_in_one_folder(listed: Collection[str], names: Sequence[str]) -> dict[str, str]:
    """Match the files of an archive with a single top folder, the usual case; empty unless all listed names match."""
    folder, slash, _ = names[0].partition("/") if names else ("", "", "")
    wrapper = folder + slash
    if not slash or not all(name.startswith(wrapper) for name in names):
        return {}
    rows = {name: row for name in names if (row := name[len(wrapper) :]) in listed}
    return rows if len(rows) == len(listed) else {}


def _normalise(name: str) -> Parts:
    """Split a name into folders and file, spelt the same way on every system."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    parts = [part for part in _DRIVE.sub("", name).replace("\\", "/").split("/") if part not in ("", ".")]
    stem, dot, extension = parts[-1].rpartition(".") if parts else ("", "", "")
    return (*parts[:-1], stem + dot + extension.lower()) if dot else tuple(parts)


def _match_exactly(
    unmatched: dict[str, Parts], candidates: dict[str, Parts], matched: dict[Parts, str], manifest: str
) -> dict[str, str]:
    """Match names whose normalised parts are equal.

    Args:
        unmatched: parts of the listed names.
        candidates: parts of the names in the archive.
        matched: names in the archive that are matched already, by their parts.
        manifest: name of the manifest in messages.

    Returns:
        The listed name by the name in the archive.
    """
    by_parts: dict[Parts, list[str]] = defaultdict(list)
    for name, parts in candidates.items():
        by_parts[parts].append(name)
    rows: dict[str, str] = {}
    for row, parts in sorted(unmatched.items()):
        names = by_parts.get(parts, [])
        if len(names) > 1:
            raise SourceError(
                f"{manifest} names {row!r}, which may be {names[0]!r} or {names[1]!r} in the archive: write one of them"
            )
        other = rows.get(names[0]) if names else matched.get(parts)
        if other is not None:
            raise SourceError(f"{manifest} names {other!r} and {row!r}, which are one file: keep one of the two rows")
        if names:
            rows[names[0]] = row
    return rows


def _match_without_prefixes(
    unmatched: dict[str, Parts], candidates: dict[str, Parts], may_strip_names: bool, manifest: str
) -> dict[str, str]:
    """Match names after dropping folders that all listed names, or all names in the archive, start with.

    The numbers of folders to drop on both sides are those that match the most names; if several do, the smallest.
    """
    max_name_folders = min(MAX_FOLDERS, len(_find_shared_folders(candidates.values()))) if may_strip_names else 0
    max_row_folders = min(MAX_FOLDERS, len(_find_shared_folders(unmatched.values())))
    best: tuple[int, int, int, int] | None = None
    for row_folders, name_folders in product(range(max_row_folders + 1), range(max_name_folders + 1)):
        if row_folders or name_folders:
            count = _count_matches(unmatched.values(), candidates.values(), row_folders, name_folders)
            rank = (count, -row_folders - name_folders)
            plausible = _is_plausible(count, unmatched, candidates, row_folders, name_folders)
            if plausible and (best is None or rank > best[:2]):
                best = (*rank, row_folders, name_folders)
    if best is None:
        return {}
    _, _, row_folders, name_folders = best
    shorter_names = {name: parts[name_folders:] for name, parts in candidates.items()}
    shorter_rows = {row: parts[row_folders:] for row, parts in unmatched.items()}
    return _match_exactly(shorter_rows, shorter_names, {}, manifest)


def _is_plausible(
    count: int, unmatched: dict[str, Parts], candidates: dict[str, Parts], row_folders: int, name_folders: int
) -> bool:
    """Return whether dropping this many folders, which matches `count` names, can be what the manifest means.

    If folders are dropped on both sides, equal file names in `siteA/` and `siteB/` would match. So all names must match
    and either have a further folder in common with their file, or be absolute paths that leave no file over.
    """
    if not (row_folders and name_folders):
        return count > 0
    share_folder = all(len(parts) - row_folders > 1 for parts in unmatched.values())
    absolute = all(_ABSOLUTE.match(row) for row in unmatched) and len(unmatched) == len(candidates)
    return count == len(unmatched) and (share_folder or absolute)


def _count_matches(
    unmatched: Collection[Parts], candidates: Collection[Parts], row_folders: int, name_folders: int
) -> int:
    names = {parts[name_folders:] for parts in candidates}
    sample = list(unmatched)[:SAMPLE_NAMES]
    if len(sample) < len(unmatched) and not any(parts[row_folders:] in names for parts in sample):
        return 0
    return sum(parts[row_folders:] in names for parts in unmatched)


def _find_shared_folders(names: Iterable[Parts]) -> Parts:
    """Return the folders that all names start with."""
    folders = {parts[:-1] for parts in names}
    if not folders:
        return ()
    first, last = min(folders), max(folders)
    count = next((index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[: min(len(first), len(last)) if count is None else count]


def find_nearest_name(listed: str, names: Sequence[str]) -> str | None:
    """Return the name in the archive that is most similar to a listed one, for messages only."""
    last = _normalise(listed)[-1:] or ("",)

    def similarity(name: str) -> tuple[bool, bool, bool]:
        other = _normalise(name)[-1:] or ("",)
        extensions = Counter(part.rpartition(".")[2].casefold() for part in (last[0], other[0]))
        stems = [part.rpartition(".")[0].casefold() or part for part in (last[0], other[0])]
        return last[0].casefold() == other[0].casefold(), stems[0] == stems[1], len(extensions) == 1

    return max(names, key=similarity, default=None)
