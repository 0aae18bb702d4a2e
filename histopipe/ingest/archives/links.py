"""Links in archives: each is replaced by the file or folder of the same archive that it points to, or by a fault.

`tar` writes the second name of a file as a hard link; people make symbolic links to save space. A link is read as if
it were a copy. A link out of the archive isn't followed, because its target is on another machine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from histopipe.ingest.archives.limits import ReadBudget
from histopipe.ingest.archives.member import Member

OUTSIDE_ARCHIVE = "link out of the archive"
MISSING_TARGET = "link to a path that is not in the archive"
CIRCULAR = "circular link"
LONGEST_TARGET = 1024  # bytes; the longest path of macOS
LONGEST_CHAIN = 40  # links in a row; the limit of Linux


class Link(NamedTuple):
    """A link in an archive.

    Attributes:
        member: the archive's entry for the link, with the link's own name.
        target: path that it points to, relative to the archive's root if the link is hard, else to the link's folder.
        hard: whether it is a second name of a file (a hard link).
    """

    member: Member
    target: str
    hard: bool = False


class _LinkError(Exception):
    """A link that can't be followed; its argument gives the reason."""


def follow_links(members: list[Member], links: Sequence[Link], budget: ReadBudget) -> list[Member]:
    """Replace each link by the files that it points to, under the link's name.

    Args:
        members: the members that aren't links.
        links: the links, in the archive's order.
        budget: counts the members that links resolve to.

    Returns:
        All members, sorted by their position in the archive. A link that can't be followed is a member with a fault.

    Raises:
        ArchiveError: the links resolve to too many members.
    """
    if not links:
        return members
    resolver = _LinkResolver(members, links)
    resolved = []
    for link in links:
        for number, member in enumerate(resolver.resolve(link)):
            budget.count_members(min(number, 1))  # the link itself was counted before
            budget.count_listing(len(member.name))
            resolved.append(member)
    return sorted([*members, *resolved], key=lambda member: member.offset)


class _LinkResolver:
    """The files and links of an archive by name, and a lookup of what each link points to."""

    def __init__(self, members: Sequence[Member], links: Sequence[Link]) -> None:
        self._files: dict[str, Member] = {}
        for member in members:
            self._files.setdefault(member.name, member)
        self._links = {link.member.name: link for link in links}
        self._names = sorted({*self._files, *self._links})
        self._targets: dict[str, str | _LinkError] = {}

    def resolve(self, link: Link) -> Iterator[Member]:
        """Yield the files that a link resolves to, or the link with a fault."""
        yield from self._resolve_as(link, link.member.name, ())

    def _resolve_as(self, link: Link, name: str, entered: tuple[str, ...]) -> Iterator[Member]:
        """Yield the files that a link resolves to, named as if the link were called `name`.

        Args:
            link: the link.
            name: name to give to the file, or to the folder that contains the files.
            entered: prefixes of the folders that were entered on the way to the link.
        """
        try:
            target = self._follow(link, 0)
            if target in self._files:
                yield self._files[target]._replace(name=name)
                return
            prefix = f"{target}/" if target else ""
            ancestors = (link.member.name, *entered)
            if len(entered) > LONGEST_CHAIN or any(path.startswith(prefix) for path in ancestors):
                raise _LinkError(CIRCULAR)
            yield from self._resolve_folder(prefix, name, entered)
        except _LinkError as error:
            yield link.member._replace(name=name, fault=str(error))

    def _resolve_folder(self, prefix: str, name: str, entered: tuple[str, ...]) -> Iterator[Member]:
        """Yield every file whose name starts with `prefix`, named as if that folder were called `name`."""
        empty = True
        for path in self._iterate_names_below(prefix):
            empty = False
            new_name = f"{name}/{path[len(prefix) :]}"
            if path in self._links:
                yield from self._resolve_as(self._links[path], new_name, (*entered, prefix))
            else:
                yield self._files[path]._replace(name=new_name)
        if empty:
            raise _LinkError(MISSING_TARGET)

    def _iterate_names_below(self, prefix: str) -> Iterator[str]:
        index = bisect_left(self._names, prefix)
        while index < len(self._names) and self._names[index].startswith(prefix):
            yield self._names[index]
            index += 1

    def _follow(self, link: Link, steps: int) -> str:
        """Return the path that a link finally points to, free of further links."""
        name = link.member.name
        if name not in self._targets:
            if steps > LONGEST_CHAIN:
                raise _LinkError(CIRCULAR)
            self._targets[name] = _LinkError(CIRCULAR)  # holds if the walk comes back to this link
            try:
                self._targets[name] = self._walk(link, steps)
            except _LinkError as error:
                self._targets[name] = error
        target = self._targets[name]
        if isinstance(target, _LinkError):
            raise _LinkError(*target.args)
        return target

    def _walk(self, link: Link, steps: int) -> str:
        """Follow the path of a link part by part, through the links on the way."""
        if len(link.target) > LONGEST_TARGET or len(link.member.name) > LONGEST_TARGET:
            raise _LinkError(MISSING_TARGET)
        target = link.target.replace("\\", "/")  # as in members' names
        if target.startswith("/") or target[1:3] == ":/":
            raise _LinkError(OUTSIDE_ARCHIVE)
        start = "" if link.hard else link.member.name.rpartition("/")[0]
        parts: list[str] = []
        for part in [*start.split("/"), *target.split("/")]:
            if part == ".." and not parts:
                raise _LinkError(OUTSIDE_ARCHIVE)
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
                path = "/".join(parts)
                if path in self._links:
                    parts = [name for name in self._follow(self._links[path], steps + 1).split("/") if name]
        return "/".join(parts)
