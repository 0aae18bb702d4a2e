"""Links in archives: each stands for the file or the folder of the same archive that it leads to, or for a fault.

Hard links are what `tar` makes of the second name of a file, symbolic ones what people make to save room. A link is
read as a copy would be. One that leads out of the archive isn't followed: what it means lies on another machine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from histopipe.ingest.archives.limits import Allowance
from histopipe.ingest.archives.member import Member

LEADS_OUT = "link that leads out of the archive"
LEADS_NOWHERE = "link to what is not in the archive"
CIRCULAR = "link that leads to itself"
LONGEST_TARGET = 1024  # bytes; macOS bounds paths at as many
LONGEST_CHAIN = 40  # links from one to the next, as Linux has it


class Link(NamedTuple):
    """A link as it stands in an archive.

    Attributes:
        member: under the link's own name.
        target: where it leads: from the archive's root if it is hard, else from the link's folder.
        hard: whether it is a second name of a file.
    """

    member: Member
    target: str
    hard: bool = False


class _Fault(Exception):
    """A link that can't be followed; says why."""


def follow_links(members: list[Member], links: Sequence[Link], allowance: Allowance) -> list[Member]:
    """Return an archive's members with, for each link, what it leads to under the link's name, sorted by place.

    Args:
        members: without the links.
        links: in the archive's order.
        allowance: what they lead to counts as members.

    Raises:
        ArchiveError: the links stand for too many members.
    """
    if not links:
        return members
    tree = _Tree(members, links)
    followed = []
    for link in links:
        for number, member in enumerate(tree.followed(link)):
            allowance.take_members(min(number, 1))  # the link itself was counted
            allowance.take_listing(len(member.name))
            followed.append(member)
    return sorted([*members, *followed], key=lambda member: member.offset)


class _Tree:
    """The archive's files and links by name."""

    def __init__(self, members: Sequence[Member], links: Sequence[Link]) -> None:
        self._files: dict[str, Member] = {}
        for member in members:
            self._files.setdefault(member.name, member)
        self._links = {link.member.name: link for link in links}
        self._names = sorted({*self._files, *self._links})
        self._real: dict[str, str | _Fault] = {}

    def followed(self, link: Link) -> Iterator[Member]:
        """What a link stands for."""
        yield from self._under(link, link.member.name, ())

    def _under(self, link: Link, name: str, entered: tuple[str, ...]) -> Iterator[Member]:
        """What a link stands for, if it is called `name`; `entered` are the folders that lead to it."""
        try:
            real = self._follow(link, 0)
            if real in self._files:
                yield self._files[real]._replace(name=name)
                return
            within = f"{real}/" if real else ""
            around = (link.member.name, *entered)
            if len(entered) > LONGEST_CHAIN or any(path.startswith(within) for path in around):
                raise _Fault(CIRCULAR)
            yield from self._folder(within, name, entered)
        except _Fault as fault:
            yield link.member._replace(name=name, fault=str(fault))

    def _folder(self, within: str, name: str, entered: tuple[str, ...]) -> Iterator[Member]:
        """Every file of a folder, whose name ends with a slash, as if it were called `name`."""
        empty = True
        for inner in self._below(within):
            empty = False
            shown = f"{name}/{inner[len(within) :]}"
            if inner in self._links:
                yield from self._under(self._links[inner], shown, (*entered, within))
            else:
                yield self._files[inner]._replace(name=shown)
        if empty:
            raise _Fault(LEADS_NOWHERE)

    def _below(self, within: str) -> Iterator[str]:
        place = bisect_left(self._names, within)
        while place < len(self._names) and self._names[place].startswith(within):
            yield self._names[place]
            place += 1

    def _follow(self, link: Link, steps: int) -> str:
        """The path that a link leads to in the end, without links in it."""
        name = link.member.name
        if name not in self._real:
            if steps > LONGEST_CHAIN:
                raise _Fault(CIRCULAR)
            self._real[name] = _Fault(CIRCULAR)  # for whoever comes by here again on the way
            try:
                self._real[name] = self._walk(link, steps)
            except _Fault as fault:
                self._real[name] = fault
        real = self._real[name]
        if isinstance(real, _Fault):
            raise _Fault(*real.args)
        return real

    def _walk(self, link: Link, steps: int) -> str:
        if len(link.target) > LONGEST_TARGET or len(link.member.name) > LONGEST_TARGET:
            raise _Fault(LEADS_NOWHERE)
        target = link.target.replace("\\", "/")  # as in members' names
        if target.startswith("/") or target[1:3] == ":/":
            raise _Fault(LEADS_OUT)
        start = "" if link.hard else link.member.name.rpartition("/")[0]
        parts: list[str] = []
        for part in [*start.split("/"), *target.split("/")]:
            if part == ".." and not parts:
                raise _Fault(LEADS_OUT)
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
                path = "/".join(parts)
                if path in self._links:
                    parts = [known for known in self._follow(self._links[path], steps + 1).split("/") if known]
        return "/".join(parts)
