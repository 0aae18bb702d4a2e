"""Decode members and write them as one shard: the part of ingest that worker processes do, with light imports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from histopipe.archives import Payload
from histopipe.datasets import MemberRejected
from histopipe.images import Patch, decode_patch, pad_patch, resize_patch
from histopipe.ingest.plan import Planned

BLOCK_BYTES = 2**20  # pixels that are summed up and written while they are still in a core's cache

COLUMNS = ["file", "case_id", "label", "x", "y", "width", "height", "digest"]
COLOURS = [f"{colour}_{statistic}" for statistic in ("mean", "std") for colour in ("red", "green", "blue")]

Row = tuple[object, ...]


@dataclass(frozen=True)
class ShardTask:
    """Members that one process decodes and writes as one shard."""

    path: Path
    planned: list[Planned]
    payloads: list[Payload]
    patch_size: tuple[int, int]
    resized: bool


@dataclass(frozen=True)
class Shard:
    """What became of a task; the pixels went into its file.

    Attributes:
        rows: values of `COLUMNS` and of the data set's attributes, one tuple per patch, in the order of the file.
        colours: values of `COLOURS` in blocks, together (rows, 6) float32.
        rejected: reason and name of each unusable member.
    """

    path: Path
    rows: list[Row]
    colours: list[NDArray[np.float32]]
    rejected: list[tuple[str, str]]


def write_shard(task: ShardTask) -> Shard:
    """Read and decode a task's members and write those that can be used as one array."""
    height, width = task.patch_size
    block = np.empty((max(1, BLOCK_BYTES // (3 * height * width)), height, width, 3), np.uint8)
    shard = Shard(task.path, [], [], [])
    with task.path.open("wb") as file:
        _write_header(file, (len(task.planned), height, width, 3))
        for start in range(0, len(task.planned), len(block)):
            filled = _decode_block(task, start, block, shard)
            file.write(block[:filled].data)
            shard.colours.append(colour_statistics(block[:filled]))
        file.seek(0)
        _write_header(file, (len(shard.rows), height, width, 3))
    return shard


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """NumPy leaves room for the first axis to grow, so a header can be written again when the count is known."""
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def _decode_block(task: ShardTask, start: int, block: NDArray[np.uint8], shard: Shard) -> int:
    """Fill `block` with the members from `start` on; returns how many of them could be used."""
    fit = resize_patch if task.resized else pad_patch
    part = slice(start, start + len(block))
    filled = 0
    for one, payload in zip(task.planned[part], task.payloads[part], strict=True):
        try:
            patch = decode_patch(payload(), block[filled])
            if not np.may_share_memory(patch, block):
                block[filled] = fit(patch, task.patch_size)
        except MemberRejected as reason:
            shard.rejected.append((str(reason), one.member.name))
            continue
        shard.rows.append(_row(one, patch))
        filled += 1
    return filled


def _row(planned: Planned, patch: Patch) -> Row:
    name = planned.name
    height, width = patch.shape[:2]
    digest = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(patch).data)
    return planned.member.name, name.case_id, name.label, name.x, name.y, width, height, digest, *name.attributes


def colour_statistics(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean and standard deviation of each channel, (patches, 6): what drift is later measured by."""
    pixels = patches.shape[1] * patches.shape[2]
    means = _channel_sums(patches) / pixels
    squares = _channel_sums(np.square(patches, dtype=np.uint16)) / pixels
    deviations = np.sqrt(squares - np.square(means))
    return np.concatenate([means, deviations], axis=1, dtype=np.float32)


def _channel_sums(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Exact sums over each patch, (patches, 3). Rows are added up first: numpy is slow over the last axis of three."""
    count, height, width, _ = values.shape
    columns = np.add.reduce(values.reshape(count, height, 3 * width), axis=1, dtype=np.uint32)
    return columns.reshape(count, width, 3).sum(axis=1, dtype=np.uint64)
