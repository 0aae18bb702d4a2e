"""Decode members and write them as one shard: the part of ingest that worker processes do."""

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
from histopipe.ingest.plan import Planned

BLOCK_BYTES = 2**20  # pixels that are summed up and written while they are still in a core's cache

COLUMNS = {  # of the index, with their types: pandas else looks at every value to find them
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
    """Members that one process decodes and writes as one shard.

    Attributes:
        attributes: further columns of the index by name, each with its type.
    """

    path: Path
    planned: list[Planned]
    payloads: list[Payload]
    patch_size: tuple[int, int]
    resized: bool
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """What became of a task; the pixels went into its file.

    Attributes:
        index: `COLUMNS`, the data set's attributes and `COLOURS`, one row per patch, in the order of the file.
        rejected: reason and name of each unusable member.
    """

    path: Path
    index: pd.DataFrame
    rejected: list[tuple[str, str]]


def write_shard(task: ShardTask) -> Shard:
    """Read and decode a task's members and write those that can be used as one array."""
    height, width = task.patch_size
    block = np.empty((max(1, BLOCK_BYTES // (3 * height * width)), height, width, 3), np.uint8)
    rows: list[Row] = []
    colours = [np.empty((0, len(COLOURS)), np.float32)]
    rejected: list[tuple[str, str]] = []
    with task.path.open("wb") as file:
        _write_header(file, (len(task.planned), height, width, 3))
        for start in range(0, len(task.planned), len(block)):
            decoded = _decode_block(task, start, block, rejected)
            file.write(block[: len(decoded)].data)
            colours.append(colour_statistics(block[: len(decoded)]))
            rows += decoded
        file.seek(0)
        _write_header(file, (len(rows), height, width, 3))
    return Shard(task.path, _index(rows, np.concatenate(colours), task.attributes), rejected)


def _index(rows: list[Row], colours: NDArray[np.float32], attributes: Mapping[str, str]) -> pd.DataFrame:
    """The index of some patches: `COLUMNS` and the data set's attributes from `rows`, and `COLOURS`, (rows, 6)."""
    types = {**COLUMNS, **attributes}
    columns = zip(*rows, strict=True) if rows else iter([()] * len(types))
    index = pd.DataFrame({name: pd.Series(next(columns), dtype=types[name]) for name in types})
    index[COLOURS] = colours
    return index


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """NumPy leaves room for the first axis to grow, so a header can be written again when the count is known."""
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def _decode_block(task: ShardTask, start: int, block: NDArray[np.uint8], rejected: list[tuple[str, str]]) -> list[Row]:
    """Fill `block` with the members from `start` on; returns the rows of those that can be used, notes the others."""
    fit = resize_patch if task.resized else pad_patch
    part = slice(start, start + len(block))
    rows: list[Row] = []
    for one, payload in zip(task.planned[part], task.payloads[part], strict=True):
        try:
            patch = decode_patch(payload(), block[len(rows)])
            if not np.may_share_memory(patch, block):
                block[len(rows)] = fit(patch, task.patch_size)
        except MemberRejected as reason:
            rejected.append((str(reason), one.member.name))
            continue
        rows.append(_row(one, patch))
    return rows


def _row(planned: Planned, patch: Patch) -> Row:
    name = planned.name
    height, width = patch.shape[:2]
    digest = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(patch).data)
    return planned.member.name, name.case_id, name.label, name.x, name.y, width, height, digest, *name.attributes
