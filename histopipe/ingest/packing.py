"""Decoding of patches on all cores into shards, in the archive's order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from histopipe.core.processes import Workers, available_cores
from histopipe.data.store import shard_length, shard_name
from histopipe.ingest.archives.reading import Archive
from histopipe.ingest.datasets import Dataset
from histopipe.ingest.parts import link_shard
from histopipe.ingest.plan import Plan, PlannedPatch, UnusedMembers
from histopipe.ingest.shards import Shard, ShardTask, write_shard

PAYLOAD_BYTES = 32 * 2**20  # encoded members of one shard; those of a compressed tar are held in memory
BYTES_PER_WORKER = 60 * 2**20  # about what one process decodes while another starts


def make_workers(archive: Path) -> Workers[ShardTask, Shard]:
    """Create worker processes: one per core, fewer for a small archive."""
    return Workers(write_shard, min(available_cores(), 1 + archive.stat().st_size // BYTES_PER_WORKER))


def pack(
    archive: Archive,
    shards: Sequence[Sequence[PlannedPatch]],
    present: Mapping[int, Shard],
    unused: UnusedMembers,
    dataset: Dataset,
    folder: Path,
    workers: Workers[ShardTask, Shard],
) -> pd.DataFrame:
    """Write the planned patches as shards into `folder`.

    Args:
        archive: the open archive.
        shards: the patches of each shard.
        present: shards that were decoded before, by number.
        unused: receives the members that can't be decoded.
        dataset: the data set.
        folder: folder to write the shards to.
        workers: processes that decode the other shards.

    Returns:
        The index, one row per patch, in the order of the shards.
    """
    index: list[pd.DataFrame] = []
    written = 0
    missing = [number for number in range(len(shards)) if number not in present]
    decoded = decode(archive, shards, missing, dataset, folder, workers)
    with tqdm(total=sum(map(len, shards)), desc=f"ingest {dataset.name}", unit="patch", unit_scale=True) as bar:
        for number in range(len(shards)):
            shard = link_shard(present[number], folder / shard_name(number)) if number in present else next(decoded)
            for reason, file in shard.rejected:
                unused.add(reason, file)
            index.append(_number_rows(shard, written))
            written += bool(len(shard.index))
            bar.update(len(shard.index) + len(shard.rejected))
    return pd.concat(index, ignore_index=True)


def decode(
    archive: Archive,
    shards: Sequence[Sequence[PlannedPatch]],
    numbers: Sequence[int],
    dataset: Dataset,
    folder: Path,
    workers: Workers[ShardTask, Shard],
) -> Iterator[Shard]:
    """Decode the shards with these numbers into `folder` and yield them in that order."""
    payloads = archive.payloads([patch.member for number in numbers for patch in shards[number]])
    size, resized, attributes = dataset.patch_size, dataset.resized, dataset.attributes
    tasks = (
        ShardTask(
            folder / shard_name(number),
            list(shards[number]),
            list(islice(payloads, len(shards[number]))),
            size,
            resized,
            attributes,
        )
        for number in numbers
    )
    return workers.in_order(tasks)


def assign_shards(plan: Plan, dataset: Dataset) -> list[list[PlannedPatch]]:
    """Divide the planned patches into shards, in their order."""
    return list(_split_runs(plan.patches, shard_length(dataset.patch_size)))


def _split_runs(patches: Sequence[PlannedPatch], max_length: int) -> Iterator[list[PlannedPatch]]:
    """Split patches into runs of at most `max_length` patches and `PAYLOAD_BYTES` bytes."""
    run: list[PlannedPatch] = []
    size = 0
    for patch in patches:
        if run and (len(run) == max_length or size + patch.member.size > PAYLOAD_BYTES):
            yield run
            run, size = [], 0
        run.append(patch)
        size += patch.member.size
    if run:
        yield run


def _number_rows(shard: Shard, number: int) -> pd.DataFrame:
    """Give a shard the next number in the store and return its part of the index.

    The file is renamed if an earlier shard turned out empty; an empty shard is deleted.
    """
    if len(shard.index):
        shard.path.rename(shard.path.with_name(shard_name(number)))
    else:
        shard.path.unlink()
    return shard.index.assign(shard=np.int32(number), row=np.arange(len(shard.index), dtype=np.int32))
