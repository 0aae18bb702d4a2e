"""Which file of an archive or folder a manifest means, where the two spell its name differently.

A name that stands there as it is listed is always taken. Names that are left may differ by `./`, the slash's direction,
Unicode's normal form and the letter case of the ending, and by the folders that all of them share: those that the
archive was made from, or that wrap it. Nothing is matched that could also mean another file.
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

TRIED = 100  # names by which a pair of prefixes is tried before all are
MOST_FOLDERS = 20  # in front of all names that are tried without: hostile archives have thousands
EXAMPLES = 5  # pairs of names that a report shows

_ABSOLUTE = re.compile(r"/|\\|[A-Za-z]:[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:(?=[/\\])")

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Matching:
    """What became of a manifest's names.

    Attributes:
        rows: the listed name, by the name that stands in the archive.
        listed: how many names the manifest has.
    """

    rows: dict[str, str] = field(default_factory=dict)
    listed: int = 0

    def counts(self) -> ManifestCounts:
        """Counts for `report.json`, with examples of names that differ."""
        otherwise = [[row, name] for name, row in self.rows.items() if row != name]
        return {
            "listed": self.listed,
            "matched_as_listed": len(self.rows) - len(otherwise),
            "matched_otherwise": len(otherwise),
            "examples": otherwise[:EXAMPLES],
        }


def match_files(listed: Collection[str], names: Sequence[str], manifest: str = "the manifest") -> Matching:
    """Find the file that each listed name means.

    Args:
        listed: names in the manifest.
        names: names of the files that are there.
        manifest: what messages call it.

    Raises:
        SourceError: a listed name may mean two files, or two listed names mean one.
    """
    rows = {name: name for name in names if name in listed} or _in_one_folder(listed, names)
    if len(rows) == len(listed):
        return Matching(rows, len(listed))
    missing, others = set(listed) - set(rows.values()), [name for name in dict.fromkeys(names) if name not in rows]
    wanted, present = {row: _tidied(row) for row in missing}, {name: _tidied(name) for name in others}
    taken = {_tidied(name): name for name in rows}
    rows |= _paired(wanted, present, taken, manifest)
    found = set(rows.values())
    wanted = {row: parts for row, parts in wanted.items() if row not in found}
    if rows:  # names that lie under another folder than most are strangers, unless they say where they lay
        wanted = {row: parts for row, parts in wanted.items() if _ABSOLUTE.match(row)}
    if wanted:
        left = {name: parts for name, parts in present.items() if name not in rows}
        rows |= _without_prefixes(wanted, left, may_strip_names=not rows, manifest=manifest)
    return Matching(rows, len(listed))


def _in_one_folder(listed: Collection[str], names: Sequence[str]) -> dict[str, str]:
    """The listed names of what lies in a single folder, as archives are packed most often, if it holds all of them."""
    folder, slash, _ = names[0].partition("/") if names else ("", "", "")
    wrapper = folder + slash
    if not slash or not all(name.startswith(wrapper) for name in names):
        return {}
    rows = {name: row for name in names if (row := name[len(wrapper) :]) in listed}
    return rows if len(rows) == len(listed) else {}


def _tidied(name: str) -> Parts:
    """A name's folders and file, as every system would spell them."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    parts = [part for part in _DRIVE.sub("", name).replace("\\", "/").split("/") if part not in ("", ".")]
    stem, dot, ending = parts[-1].rpartition(".") if parts else ("", "", "")
    return (*parts[:-1], stem + dot + ending.lower()) if dot else tuple(parts)


def _paired(
    wanted: dict[str, Parts], present: dict[str, Parts], taken: dict[Parts, str], manifest: str
) -> dict[str, str]:
    """Return the listed name by the present one, of those that come to the same."""
    by_parts: dict[Parts, list[str]] = defaultdict(list)
    for name, parts in present.items():
        by_parts[parts].append(name)
    rows: dict[str, str] = {}
    for row, parts in sorted(wanted.items()):
        names = by_parts.get(parts, [])
        if len(names) > 1:
            raise SourceError(
                f"{manifest} names {row!r}, which may be {names[0]!r} or {names[1]!r} in the archive: write one of them"
            )
        other = rows.get(names[0]) if names else taken.get(parts)
        if other is not None:
            raise SourceError(f"{manifest} names {other!r} and {row!r}, which are one file: leave one of the two rows")
        if names:
            rows[names[0]] = row
    return rows


def _without_prefixes(
    wanted: dict[str, Parts], present: dict[str, Parts], may_strip_names: bool, manifest: str
) -> dict[str, str]:
    """Pair names without the folders that all wanted ones, or all present ones, have in front.

    Taken is the pair of prefixes that brings most names together, of equals the shortest. See `_is_enough`.
    """
    deepest = min(MOST_FOLDERS, len(_shared_folders(present.values()))) if may_strip_names else 0
    highest = min(MOST_FOLDERS, len(_shared_folders(wanted.values())))
    best: tuple[int, int, int, int] | None = None
    for lost, spare in product(range(highest + 1), range(deepest + 1)):
        if lost or spare:
            count = _in_common(wanted.values(), present.values(), lost, spare)
            if _is_enough(count, wanted, present, lost, spare) and (best is None or (count, -lost - spare) > best[:2]):
                best = (count, -lost - spare, lost, spare)
    if best is None:
        return {}
    _, _, lost, spare = best
    shorter = {name: parts[spare:] for name, parts in present.items()}
    return _paired({row: parts[lost:] for row, parts in wanted.items()}, shorter, {}, manifest)


def _is_enough(count: int, wanted: dict[str, Parts], present: dict[str, Parts], lost: int, spare: int) -> bool:
    """Tell whether prefixes that bring `count` names together can be meant.

    Where folders are left out on both sides, files numbered alike in `siteA/` and `siteB/` would come together: then
    every name has to find its file, and share a folder with it, or be a path of another machine and leave no file.
    """
    if not (lost and spare):
        return count > 0
    deep = all(len(parts) - lost > 1 for parts in wanted.values())
    foreign = all(_ABSOLUTE.match(row) for row in wanted) and len(wanted) == len(present)
    return count == len(wanted) and (deep or foreign)


def _in_common(wanted: Collection[Parts], present: Collection[Parts], lost: int, spare: int) -> int:
    tails = {parts[spare:] for parts in present}
    some = list(wanted)[:TRIED]
    if len(some) < len(wanted) and not any(parts[lost:] in tails for parts in some):
        return 0
    return sum(parts[lost:] in tails for parts in wanted)


def _shared_folders(names: Iterable[Parts]) -> Parts:
    """The folders that all names begin with."""
    folders = {parts[:-1] for parts in names}
    if not folders:
        return ()
    first, last = min(folders), max(folders)
    count = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[: min(len(first), len(last)) if count is None else count]


def nearest_name(wanted: str, names: Sequence[str]) -> str | None:
    """Of the names that are there, the one that most likely was meant: for messages alone."""
    last = _tidied(wanted)[-1:] or ("",)

    def likeness(name: str) -> tuple[bool, bool, bool]:
        other = _tidied(name)[-1:] or ("",)
        endings = Counter(part.rpartition(".")[2].casefold() for part in (last[0], other[0]))
        stems = [part.rpartition(".")[0].casefold() or part for part in (last[0], other[0])]
        return last[0].casefold() == other[0].casefold(), stems[0] == stems[1], len(endings) == 1

    return max(names, key=likeness, default=None)
