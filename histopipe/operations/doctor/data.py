"""Whether stores hold the pixels that ingest wrote."""

from __future__ import annotations

import sys

import numpy as np
import xxhash
from tqdm import tqdm

from histopipe.core.colours import COLOURS, colour_statistics
from histopipe.core.errors import HistopipeError
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore, Rows, shard_name
from histopipe.operations.doctor.finding import Finding

CHUNK = 1024  # patches looked at together


MENDING = "`histopipe doctor --mend`"


def stores(params: Params, workspace: Workspace, damaged: bool = False) -> list[Finding]:
    """One finding for every data set of `params.yaml`; `damaged` where outputs changed without DVC's notice."""
    return [store(dataset, workspace, damaged) for dataset in params.datasets]


def store(dataset: str, workspace: Workspace, damaged: bool = False) -> Finding:
    """Whether every patch still has the digest, or the colours, that the index holds."""
    what, folder = f"store of {dataset}", workspace.store(dataset)
    if not folder.exists():
        return Finding(what, "none yet")
    try:
        opened = PatchStore.open(folder)
    except HistopipeError as problem:
        said, _, remedy = str(problem).rpartition(": ")
        return Finding(what, said, "error", MENDING if damaged else remedy)
    rows = damaged_rows(opened, what)
    if not len(rows):
        return Finding(what, f"{len(opened.index):,} patches, all as ingested")
    shards = sorted({int(number) for number in opened.index["shard"].to_numpy()[rows]})
    named = ", ".join(shard_name(number) for number in shards[:3])
    said = f"{len(rows):,} of {len(opened.index):,} patches differ from the index, in {named}"
    remedy = MENDING if damaged else f"`dvc checkout --force {folder.relative_to(workspace.root)}`"
    return Finding(what, said, "error", remedy)


def damaged_rows(opened: PatchStore, title: str) -> Rows:
    """Rows whose pixels aren't those that were ingested.

    A patch that was stored as it came has its own digest. Of one that was resized or padded the digest is that of the
    original: its stored pixels are told by their mean and standard deviation.
    """
    index = opened.index
    height, width = opened.patch_size
    whole = ((index["height"] == height) & (index["width"] == width)).to_numpy()
    digests, colours = index["digest"].to_numpy(), index[COLOURS].to_numpy()
    damaged = np.zeros(len(index), bool)
    starts = range(0, len(index), CHUNK)
    for start in tqdm(starts, desc=title, unit="k patch", file=sys.stderr, leave=False):
        rows = np.arange(start, min(start + CHUNK, len(index)))
        patches = opened.gather(rows)
        found = [xxhash.xxh3_128_hexdigest(patch.data) for patch in patches]
        same = np.where(whole[rows], digests[rows] == found, True)
        damaged[rows] = ~same | (colour_statistics(patches) != colours[rows]).any(axis=1)
    return np.flatnonzero(damaged)
