"""Decode patches on all cores and write them into shards, in the archive's order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from histopipe.archives import Archive
from histopipe.datasets import Dataset
from histopipe.ingest.plan import Plan, Planned
from histopipe.ingest.shards import Shard, ShardTask, write_shard
from histopipe.store import shard_length, shard_name
from histopipe.workers import Workers, available_cores

PAYLOAD_BYTES = 32 * 2**20  # of encoded members for one shard; those of a compressed tar are held in memory
BYTES_PER_WORKER = 60 * 2**20  # about as much as is decoded while another process starts


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
    written = 0
    with tqdm(total=len(plan.patches), desc=f"ingest {dataset.name}", unit="patch", unit_scale=True) as bar:
        for shard in workers.in_order(_tasks(archive, plan.patches, dataset, folder)):
            for reason, file in shard.rejected:
                plan.set_aside.add(reason, file)
            index.append(_numbered(shard, written))
            written += bool(len(shard.index))
            bar.update(len(shard.index) + len(shard.rejected))
    return pd.concat(index, ignore_index=True)


def _tasks(archive: Archive, planned: Sequence[Planned], dataset: Dataset, folder: Path) -> Iterator[ShardTask]:
    payloads = archive.payloads([one.member for one in planned])
    for number, part in enumerate(_parts(planned, shard_length(dataset.patch_size))):
        path = folder / shard_name(number)
        yield ShardTask(
            path, part, list(islice(payloads, len(part))), dataset.patch_size, dataset.resized, dataset.attributes
        )


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
    if len(shard.index):
        shard.path.rename(shard.path.with_name(shard_name(number)))
    else:
        shard.path.unlink()
    return shard.index.assign(shard=np.int32(number), row=np.arange(len(shard.index), dtype=np.int32))
