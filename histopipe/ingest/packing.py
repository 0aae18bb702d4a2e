"""Decode patches on all cores and write them into shards, in the archive's order and in bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from histopipe.archives import Archive, Payload
from histopipe.datasets import Dataset, MemberRejected
from histopipe.images import Patch, decode_patch, pad_patch, resize_patch
from histopipe.ingest.plan import Plan, Planned, SetAside
from histopipe.store import Patches, shard_length, shard_name

CHUNK_BYTES = 4 * 2**20  # pixels one thread decodes at a time; a few of them are in flight per core


@dataclass(frozen=True)
class Chunk:
    """Decoded patches, their rows of the index, and the members that turned out unusable."""

    patches: Patches
    rows: pd.DataFrame
    rejected: list[tuple[str, str]]


def pack(archive: Archive, plan: Plan, dataset: Dataset, folder: Path) -> pd.DataFrame:
    """Write the planned patches as shards into `folder`.

    Members that can't be decoded are added to the plan's `set_aside`.

    Returns:
        The index: one row per patch, in the order of the shards.
    """
    writer = ShardWriter(folder, dataset.patch_size)
    with tqdm(total=len(plan.patches), desc=f"ingest {dataset.name}", unit="patch", unit_scale=True) as bar:
        for chunk in _decoded(archive, plan.patches, dataset):
            writer.write(chunk)
            _note(chunk, plan.set_aside)
            bar.update(len(chunk.rows) + len(chunk.rejected))
    return writer.finish()


def _note(chunk: Chunk, set_aside: SetAside) -> None:
    for reason, file in chunk.rejected:
        set_aside.add(reason, file)


def _decoded(archive: Archive, planned: Sequence[Planned], dataset: Dataset) -> Iterator[Chunk]:
    """Chunks in order. Threads suffice: inflating, decoding and hashing all release the interpreter's lock."""
    workers = available_cores()
    length = max(1, CHUNK_BYTES // (dataset.patch_size[0] * dataset.patch_size[1] * 3))
    payloads = archive.payloads([one.member for one in planned])
    pending: deque[Future[Chunk]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ingest") as pool:
        for start in range(0, len(planned), length):
            part = planned[start : start + length]
            pending.append(pool.submit(_decode_chunk, part, list(islice(payloads, len(part))), dataset))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_chunk(planned: Sequence[Planned], payloads: Sequence[Payload], dataset: Dataset) -> Chunk:
    patches = np.empty((len(planned), *dataset.patch_size, 3), np.uint8)
    rows: list[tuple[object, ...]] = []
    rejected: list[tuple[str, str]] = []
    for one, payload in zip(planned, payloads, strict=True):
        try:
            patch = decode_patch(payload())
            patches[len(rows)] = fit_patch(patch, dataset)
        except MemberRejected as reason:
            rejected.append((str(reason), one.member.name))
            continue
        rows.append(_row(one, patch))
    kept = patches[: len(rows)]
    return Chunk(kept, _with_colour(pd.DataFrame(rows, columns=_COLUMNS), kept), rejected)


def fit_patch(patch: Patch, dataset: Dataset) -> Patch:
    """Bring a patch to the size at which the data set is stored.

    Raises:
        MemberRejected: it is larger than this data set's patches can be.
    """
    if dataset.resized:
        return resize_patch(patch, dataset.patch_size)
    return pad_patch(patch, dataset.patch_size)


_COLUMNS = ["file", "case_id", "label", "x", "y", "width", "height", "digest"]


def _row(planned: Planned, patch: Patch) -> tuple[object, ...]:
    name = planned.name
    height, width = patch.shape[:2]
    digest = hashlib.sha256(np.ascontiguousarray(patch).data).hexdigest()[:32]
    return planned.member.name, name.case_id, name.label, name.x, name.y, width, height, digest


def _with_colour(rows: pd.DataFrame, patches: Patches) -> pd.DataFrame:
    """Add mean and standard deviation of each channel: what drift is later measured by."""
    pixels = patches.reshape(len(patches), -1, 3)
    for channel, colour in enumerate(("red", "green", "blue")):
        values = pixels[..., channel]
        rows[f"{colour}_mean"] = values.mean(axis=1, dtype=np.float32) if len(rows) else np.empty(0, np.float32)
        rows[f"{colour}_std"] = values.std(axis=1, dtype=np.float32) if len(rows) else np.empty(0, np.float32)
    return rows


class ShardWriter:
    """Collects patches until a shard is full, then writes it."""

    def __init__(self, folder: Path, patch_size: tuple[int, int]) -> None:
        self._folder = folder
        self._shard = np.empty((shard_length(patch_size), *patch_size, 3), np.uint8)
        self._filled = 0
        self._number = 0
        self._rows: list[pd.DataFrame] = []

    def write(self, chunk: Chunk) -> None:
        """Append a chunk, which may end in a later shard than it starts in."""
        done = 0
        while done < len(chunk.rows):
            count = min(len(self._shard) - self._filled, len(chunk.rows) - done)
            self._shard[self._filled : self._filled + count] = chunk.patches[done : done + count]
            places = np.arange(self._filled, self._filled + count, dtype=np.int32)
            rows = chunk.rows.iloc[done : done + count].assign(shard=np.int32(self._number), row=places)
            self._rows.append(rows)
            self._filled += count
            done += count
            if self._filled == len(self._shard):
                self._flush()

    def _flush(self) -> None:
        np.save(self._folder / shard_name(self._number), self._shard[: self._filled], allow_pickle=False)
        self._number += 1
        self._filled = 0

    def finish(self) -> pd.DataFrame:
        """Write the last shard and return the index."""
        if self._filled:
            self._flush()
        index = pd.concat(self._rows, ignore_index=True) if self._rows else pd.DataFrame(columns=_COLUMNS)
        integers = {"label": "int8", "x": "Int32", "y": "Int32", "width": "int32", "height": "int32"}
        return index.astype(integers)
