"""Decode patches on all cores and write them into shards, in the archive's order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.archives import Archive, Payload
from histopipe.datasets import Dataset, MemberRejected
from histopipe.images import Patch, decode_patch, pad_patch, resize_patch
from histopipe.ingest.plan import Plan, Planned
from histopipe.store import Patches, shard_length, shard_name
from histopipe.workers import Workers, available_cores

PAYLOAD_BYTES = 32 * 2**20  # of encoded members for one shard; those of a compressed tar are held in memory
BYTES_PER_WORKER = 60 * 2**20  # about as much as is decoded while another process starts
BLOCK_BYTES = 2**20  # pixels that are summed up and written while they are still in a core's cache

COLUMNS = ["file", "case_id", "label", "x", "y", "width", "height", "digest"]
COLOURS = [f"{colour}_{statistic}" for statistic in ("mean", "std") for colour in ("red", "green", "blue")]
TYPES = {"label": "int8", "x": "Int32", "y": "Int32", "width": "int32", "height": "int32"}

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
        rows: values of `COLUMNS`, one tuple per patch, in the order of the file.
        colours: values of `COLOURS` in blocks, together (rows, 6) float32.
        rejected: reason and name of each unusable member.
    """

    path: Path
    rows: list[Row]
    colours: list[NDArray[np.float32]]
    rejected: list[tuple[str, str]]


def shard_workers(archive: Path) -> Workers[ShardTask, Shard]:
    """As many processes as there are cores and, by the archive's size, work for."""
    return Workers(write_shard, min(available_cores(), 1 + archive.stat().st_size // BYTES_PER_WORKER))


def pack(
    archive: Archive, plan: Plan, dataset: Dataset, folder: Path, workers: Workers[ShardTask, Shard]
) -> pd.DataFrame:
    """Write the planned patches as shards into `folder`.

    Members that can't be decoded are added to the plan's `set_aside`.

    Returns:
        The index: one row per patch, in the order of the shards.
    """
    index: list[pd.DataFrame] = []
    with tqdm(total=len(plan.patches), desc=f"ingest {dataset.name}", unit="patch", unit_scale=True) as bar:
        for shard in workers.in_order(_tasks(archive, plan.patches, dataset, folder)):
            for reason, file in shard.rejected:
                plan.set_aside.add(reason, file)
            if shard.rows:
                index.append(_numbered(shard, len(index)))
            else:
                shard.path.unlink()
            bar.update(len(shard.rows) + len(shard.rejected))
    return pd.concat(index, ignore_index=True) if index else pd.DataFrame(columns=[*COLUMNS, *COLOURS, "shard", "row"])


def _tasks(archive: Archive, planned: Sequence[Planned], dataset: Dataset, folder: Path) -> Iterator[ShardTask]:
    payloads = archive.payloads([one.member for one in planned])
    for number, part in enumerate(_parts(planned, shard_length(dataset.patch_size))):
        path = folder / shard_name(number)
        yield ShardTask(path, part, list(islice(payloads, len(part))), dataset.patch_size, dataset.resized)


def _parts(planned: Sequence[Planned], most: int) -> Iterator[list[Planned]]:
    """Runs of at most `most` members and `PAYLOAD_BYTES`."""
    part: list[Planned] = []
    size = 0
    for one in planned:
        if part and (len(part) == most or size + one.member.size > PAYLOAD_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += one.member.size
    if part:
        yield part


def _numbered(shard: Shard, number: int) -> pd.DataFrame:
    """The shard's part of the index; its file takes the next number, which is its own unless one before was empty."""
    shard.path.rename(shard.path.with_name(shard_name(number)))
    rows = pd.DataFrame(shard.rows, columns=COLUMNS).astype(TYPES)
    rows[COLOURS] = np.concatenate(shard.colours)
    return rows.assign(shard=np.int32(number), row=np.arange(len(rows), dtype=np.int32))


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


def _decode_block(task: ShardTask, start: int, block: Patches, shard: Shard) -> int:
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
    return planned.member.name, name.case_id, name.label, name.x, name.y, width, height, digest


def colour_statistics(patches: Patches) -> NDArray[np.float32]:
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
