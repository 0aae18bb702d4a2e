"""Decode patches on all cores and write them into shards, in the archive's order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from histopipe.core.workers import Workers, available_cores
from histopipe.data.store import shard_length, shard_name
from histopipe.ingest.archives.reading import Archive
from histopipe.ingest.datasets import Dataset
from histopipe.ingest.parts import brought
from histopipe.ingest.plan import Plan, Planned, SetAside
from histopipe.ingest.shards import Shard, ShardTask, write_shard

PAYLOAD_BYTES = 32 * 2**20  # of encoded members for one shard; those of a compressed tar are held in memory
BYTES_PER_WORKER = 60 * 2**20  # about as much as is decoded while another process starts


def shard_workers(archive: Path) -> Workers[ShardTask, Shard]:
    """As many processes as there are cores and, by the archive's size, work for."""
    return Workers(write_shard, min(available_cores(), 1 + archive.stat().st_size // BYTES_PER_WORKER))


def pack(
    archive: Archive,
    shards: Sequence[Sequence[Planned]],
    present: Mapping[int, Shard],
    set_aside: SetAside,
    dataset: Dataset,
    folder: Path,
    workers: Workers[ShardTask, Shard],
) -> pd.DataFrame:
    """Write the planned patches as shards into `folder`.

    Args:
        archive: the open archive.
        shards: the members of each shard.
        present: shards by number that were decoded before.
        set_aside: is told of members that can't be decoded.
        dataset: whose patches they are.
        folder: where the shards are written.
        workers: decode what isn't present.

    Returns:
        The index: one row per patch, in the order of the shards.
    """
    index: list[pd.DataFrame] = []
    written = 0
    missing = [number for number in range(len(shards)) if number not in present]
    decoded = decode(archive, shards, missing, dataset, folder, workers)
    with tqdm(total=sum(map(len, shards)), desc=f"ingest {dataset.name}", unit="patch", unit_scale=True) as bar:
        for number in range(len(shards)):
            shard = brought(present[number], folder / shard_name(number)) if number in present else next(decoded)
            for reason, file in shard.rejected:
                set_aside.add(reason, file)
            index.append(_numbered(shard, written))
            written += bool(len(shard.index))
            bar.update(len(shard.index) + len(shard.rejected))
    return pd.concat(index, ignore_index=True)


def decode(
    archive: Archive,
    shards: Sequence[Sequence[Planned]],
    numbers: Sequence[int],
    dataset: Dataset,
    folder: Path,
    workers: Workers[ShardTask, Shard],
) -> Iterator[Shard]:
    """Decode some of an archive's shards into `folder`, each into a file of its number, in that order."""
    payloads = archive.payloads([one.member for number in numbers for one in shards[number]])
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


def divide(plan: Plan, dataset: Dataset) -> list[list[Planned]]:
    """The members of each shard."""
    return list(_runs(plan.patches, shard_length(dataset.patch_size)))


def _runs(planned: Sequence[Planned], most: int) -> Iterator[list[Planned]]:
    """Runs of at most `most` members and `PAYLOAD_BYTES`."""
    run: list[Planned] = []
    size = 0
    for one in planned:
        if run and (len(run) == most or size + one.member.size > PAYLOAD_BYTES):
            yield run
            run, size = [], 0
        run.append(one)
        size += one.member.size
    if run:
        yield run


def _numbered(shard: Shard, number: int) -> pd.DataFrame:
    """The shard's part of the index; its file takes the next number, which is its own unless one before was empty."""
    if len(shard.index):
        shard.path.rename(shard.path.with_name(shard_name(number)))
    else:
        shard.path.unlink()
    return shard.index.assign(shard=np.int32(number), row=np.arange(len(shard.index), dtype=np.int32))
