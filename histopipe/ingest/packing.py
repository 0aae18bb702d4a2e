"""Decode patches on all cores and write them into shards, in the archive's order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from histopipe.archives import Archive
from histopipe.datasets import Dataset
from histopipe.ingest.plan import Plan, Planned
from histopipe.ingest.shards import COLOURS, COLUMNS, Shard, ShardTask, write_shard
from histopipe.store import shard_length, shard_name
from histopipe.workers import Workers, available_cores

PAYLOAD_BYTES = 32 * 2**20  # of encoded members for one shard; those of a compressed tar are held in memory
BYTES_PER_WORKER = 60 * 2**20  # about as much as is decoded while another process starts

TYPES = {"label": "int8", "x": "Int32", "y": "Int32", "width": "int32", "height": "int32"}


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
                index.append(_numbered(shard, len(index), dataset.attributes))
            else:
                shard.path.unlink()
            bar.update(len(shard.rows) + len(shard.rejected))
    if index:
        return pd.concat(index, ignore_index=True)
    return pd.DataFrame(columns=[*COLUMNS, *dataset.attributes, *COLOURS, "shard", "row"])


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


def _numbered(shard: Shard, number: int, attributes: Mapping[str, str]) -> pd.DataFrame:
    """The shard's part of the index; its file takes the next number, which is its own unless one before was empty."""
    shard.path.rename(shard.path.with_name(shard_name(number)))
    kinds = dict.fromkeys(COLUMNS, "str") | TYPES | dict(attributes)  # named, or pandas looks at every value first
    columns = zip(kinds, zip(*shard.rows, strict=True), strict=True)
    rows = pd.DataFrame({name: pd.Series(values, dtype=kinds[name]) for name, values in columns})
    rows[COLOURS] = np.concatenate(shard.colours)
    return rows.assign(shard=np.int32(number), row=np.arange(len(rows), dtype=np.int32))
