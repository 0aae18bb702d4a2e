"""Decoding of members into one shard, the part of ingest that runs in worker processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from histopipe.core.colours import COLOURS, colour_statistics
from histopipe.ingest.archives.reading import Payload
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch, decode_patch, pad_patch, resize_patch
from histopipe.ingest.plan import PlannedPatch

BLOCK_BYTES = 2**20  # pixels that are summed and written while they are in a core's cache

COLUMNS = {  # of the index, with types, which pandas would otherwise infer from every value
    "file": "str",
    "case_id": "str",
    "label": "int8",
    "x": "Int32",
    "y": "Int32",
    "width": "int32",
    "height": "int32",
    "digest": "str",
}
Row = tuple[object, ...]


@dataclass(frozen=True)
class ShardTask:
    """The members that one process decodes into one shard.

    Attributes:
        path: file to write.
        patches: the planned patches.
        payloads: functions that return the content of each, in the same order.
        patch_size: height and width of a stored patch in pixels.
        resized: whether images of other sizes are resized; otherwise they are padded or rejected.
        attributes: types of further columns of the index, by name.
    """

    path: Path
    patches: list[PlannedPatch]
    payloads: list[Payload]
    patch_size: tuple[int, int]
    resized: bool
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """A decoded shard.

    Attributes:
        path: file with the pixels.
        index: one row per patch, in the order of the file, with `COLUMNS`, the data set's attributes and `COLOURS`.
        rejected: reason and name of each unusable member.
    """

    path: Path
    index: pd.DataFrame
    rejected: list[tuple[str, str]]


def write_shard(task: ShardTask) -> Shard:
    """Decode the members of a task and write the usable ones to its file as one array."""
    height, width = task.patch_size
    block = np.empty((max(1, BLOCK_BYTES // (3 * height * width)), height, width, 3), np.uint8)
    rows: list[Row] = []
    colours = [np.empty((0, len(COLOURS)), np.float32)]
    rejected: list[tuple[str, str]] = []
    with task.path.open("wb") as file:
        _write_header(file, (len(task.patches), height, width, 3))
        for start in range(0, len(task.patches), len(block)):
            decoded = _decode_block(task, start, block, rejected)
            file.write(block[: len(decoded)].data)
            colours.append(colour_statistics(block[: len(decoded)]))
            rows += decoded
        file.seek(0)
        _write_header(file, (len(rows), height, width, 3))
    return Shard(task.path, _make_index(rows, np.concatenate(colours), task.attributes), rejected)


def _make_index(rows: list[Row], colours: NDArray[np.float32], attributes: Mapping[str, str]) -> pd.DataFrame:
    """Make the index of some patches.

    Args:
        rows: values of `COLUMNS` and `attributes`, one row per patch.
        colours: values of `COLOURS`, (rows, 6).
        attributes: types of the data set's further columns, by name.
    """
    types = {**COLUMNS, **attributes}
    columns = zip(*rows, strict=True) if rows else iter([()] * len(types))
    index = pd.DataFrame({name: pd.Series(next(columns), dtype=types[name]) for name in types})
    index[COLOURS] = colours
    return index


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file, or overwrite it once the count is known.

    NumPy pads headers so that the first axis can grow.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _decode_block(task: ShardTask, start: int, block: NDArray[np.uint8], rejected: list[tuple[str, str]]) -> list[Row]:
    """Decode the members from `start` on into `block`.

    Args:
        task: the members.
        start: index of the first member to decode.
        block: receives the pixels of the usable members.
        rejected: receives reason and name of the others.

    Returns:
        Index rows of the usable members.
    """
    fit = resize_patch if task.resized else pad_patch
    part = slice(start, start + len(block))
    rows: list[Row] = []
    for patch, payload in zip(task.patches[part], task.payloads[part], strict=True):
        try:
            pixels = decode_patch(payload(), block[len(rows)])
            if not np.may_share_memory(pixels, block):
                block[len(rows)] = fit(pixels, task.patch_size)
        except MemberRejected as reason:
            rejected.append((str(reason), patch.member.name))
            continue
        rows.append(_make_row(patch, pixels))
    return rows


def _make_row(patch: PlannedPatch, pixels: Patch) -> Row:
    name = patch.name
    height, width = pixels.shape[:2]
    digest = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(pixels).data)
    return patch.member.name, name.case_id, name.label, name.x, name.y, width, height, digest, *name.attributes
