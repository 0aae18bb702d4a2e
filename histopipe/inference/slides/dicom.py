"""DICOM files that belong to one slide: scanners write a series with a file for each level, label and overview."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_PREAMBLE, _MARK = 128, b"DICM"
_SERIES = (0x0020, 0x000E)  # the series' unique identifier
_SYNTAX = (0x0002, 0x0010)  # the encoding of what follows
_READABLE = b"1.2.840.10008.1.2."  # encodings that state each value's type, except for these two:
_DEFLATED, _BIG_ENDIAN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2"
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_OPEN_ENDED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONGEST, _DEEPEST = 64, 16  # letters of an identifier; sequences within sequences

Tag = tuple[int, int]


def is_dicom(path: Path) -> bool:
    """Return whether a file starts like a DICOM file, whatever its name: many are only named by a number."""
    try:
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == _MARK
    except OSError:
        return False


def series_of(path: Path) -> str | None:
    """Return the series instance UID of a DICOM file; None if there is none that can be read."""
    try:
        with path.open("rb") as stream:
            if stream.read(_PREAMBLE + 4)[_PREAMBLE:] == _MARK:
                return _find_series(stream)
    except (OSError, ValueError, struct.error):
        pass
    return None


def _find_series(stream: BinaryIO) -> str | None:
    tag: Tag = (0, 0)
    while tag < _SERIES:
        tag, length = _read_head(stream)
        if tag in (_SERIES, _SYNTAX) and length <= _LONGEST:
            value = stream.read(length).rstrip(b"\0 ")
            if tag == _SERIES:
                return value.decode("ascii")
            if not value.startswith(_READABLE) or value in (_DEFLATED, _BIG_ENDIAN):
                return None
        else:
            _skip(stream, length, 0)
    return None


def _read_head(stream: BinaryIO) -> tuple[Tag, int]:
    group, element, kind = struct.unpack("<HH2s", stream.read(6))
    if group == 0xFFFE:  # items and ends have no type
        (length,) = struct.unpack("<I", kind + stream.read(2))
    elif kind in _LONG:
        (length,) = struct.unpack("<2xI", stream.read(6))
    else:
        (length,) = struct.unpack("<H", stream.read(2))
    return (group, element), length


def _skip(stream: BinaryIO, length: int, depth: int) -> None:
    """Skip a value; a sequence or item without a length ends at its end mark."""
    if length != _OPEN_ENDED:
        stream.seek(length, 1)
        return
    if depth > _DEEPEST:
        raise ValueError("sequences within sequences without an end")
    while True:
        tag, inner = _read_head(stream)
        if tag in (_ITEM_END, _SEQUENCE_END):
            return
        _skip(stream, inner, depth + 1)
