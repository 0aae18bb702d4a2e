"""Hypothesis strategies that damage what was whole: readers get much further into it than into random bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

Repair = Callable[[bytearray], None]

WIDTHS = (1, 2, 4, 8)  # bytes of the numbers in headers
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0xFFFF, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
KINDS = ("flip", "number", "number", "cut", "remove", "repeat", "splice", "token", "fill")


class Change(NamedTuple):
    """One piece of damage.

    Attributes:
        kind: of `KINDS`.
        near: whether it lies near one of the format's own marks, where headers are, or anywhere.
        place, length, value: numbers below 65,536 that are fitted to the content.
    """

    kind: str
    near: bool
    place: int
    length: int
    value: int


_SMALL = st.integers(0, 2**16 - 1)
_CHANGES = st.lists(st.builds(Change, st.sampled_from(KINDS), st.booleans(), _SMALL, _SMALL, _SMALL), max_size=4)


def damaged(samples: Sequence[bytes], marks: Sequence[bytes], repair: Repair | None = None) -> st.SearchStrategy[bytes]:
    """One of the samples with up to four changes.

    Args:
        samples: whole files of the format.
        marks: byte strings that stand at the start of the format's headers.
        repair: sets the format's checksums right again, which is done to every second one.
    """
    return st.builds(_damage, st.sampled_from(samples), _CHANGES, st.booleans(), _Format(samples, marks, repair).asis())


class _Format(NamedTuple):
    samples: Sequence[bytes]
    marks: Sequence[bytes]
    repair: Repair | None

    def asis(self) -> st.SearchStrategy[_Format]:
        return st.just(self)


def _damage(sample: bytes, changes: list[Change], repaired: bool, form: _Format) -> bytes:
    content = bytearray(sample)
    for change in changes:
        _APPLY[change.kind](content, _start(content, change, form.marks), change, form)
    if repaired and form.repair is not None:
        form.repair(content)
    return bytes(content)


def _start(content: bytearray, change: Change, marks: Sequence[bytes]) -> int:
    """Where the change begins: with `near`, within 64 bytes of a mark."""
    if change.near and marks:
        found = content.find(marks[change.place % len(marks)], (change.place >> 8) % (len(content) + 1))
        if found >= 0:
            return max(0, min(len(content), found - 8 + change.place % 72))
    return change.place * len(content) >> 16


def _flip(content: bytearray, start: int, change: Change, _: _Format) -> None:
    if start < len(content):
        content[start] ^= 1 << change.value % 8


def _number(content: bytearray, start: int, change: Change, _: _Format) -> None:
    width = WIDTHS[change.length % 4]
    value = EXTREMES[change.value % len(EXTREMES)] % 2 ** (8 * width)
    content[start : start + width] = value.to_bytes(width, "little" if change.length & 4 else "big")


def _cut(content: bytearray, start: int, _: Change, __: _Format) -> None:
    del content[start:]


def _remove(content: bytearray, start: int, change: Change, _: _Format) -> None:
    del content[start : start + 1 + change.length % 600]


def _repeat(content: bytearray, start: int, change: Change, _: _Format) -> None:
    content[start:start] = content[start : start + 1 + change.length % 600] * (1 + change.value % 3)


def _splice(content: bytearray, start: int, change: Change, form: _Format) -> None:
    other = form.samples[change.value % len(form.samples)]
    content[start:] = other[change.length * len(other) >> 16 :]


def _token(content: bytearray, start: int, change: Change, form: _Format) -> None:
    token = form.marks[change.value % len(form.marks)] if form.marks else b"\0"
    content[start : start + (len(token) if change.length & 1 else 0)] = token


def _fill(content: bytearray, start: int, change: Change, _: _Format) -> None:
    length = min(len(content) - start, change.length % 64)
    content[start : start + length] = bytes([change.value % 256]) * length


_APPLY: dict[str, Callable[[bytearray, int, Change, _Format], Any]] = {
    "flip": _flip,
    "number": _number,
    "cut": _cut,
    "remove": _remove,
    "repeat": _repeat,
    "splice": _splice,
    "token": _token,
    "fill": _fill,
}


def repair_png(content: bytearray) -> None:
    """Write the right checksum behind every chunk."""
    start = 8
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        end = start + 8 + length
        if end + 4 > len(content):
            return
        struct.pack_into(">I", content, end, zlib.crc32(content[start + 4 : end]))
        start = end + 4


def repair_tar(content: bytearray) -> None:
    """Write the right checksum into every header."""
    for start in range(0, len(content) - 511, 512):
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])


def spelt(pieces: Sequence[str]) -> st.SearchStrategy[str]:
    """Names put together from a format's own pieces, long runs of them and any letters, lone surrogates included."""
    times = st.sampled_from((1, 1, 1, 2, 9, 20_000))
    runs = st.builds(lambda piece, count: piece * count, st.sampled_from(pieces), times)
    odd = st.text(st.characters(exclude_categories=()), max_size=5)
    found = st.lists(st.one_of(st.sampled_from(pieces), runs, odd), max_size=12)
    return found.map(lambda parts: "".join(parts)[:65_535])  # the longest name that a zip has room for
