"""Check that stores hold the pixels that ingest wrote."""

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

CHUNK = 1024  # patches that are checked together
REPAIR = "`histopipe doctor --mend`"


def check_stores(params: Params, workspace: Workspace, damaged: bool = False) -> list[Finding]:
    """Check the store of every data set in `params.yaml`.

    Args:
        params: the parameters.
        workspace: the checkout.
        damaged: whether outputs are damaged without DVC noticing, which changes the remedy.
    """
    return [check_store(dataset, workspace, damaged) for dataset in params.datasets]


def check_store(dataset: str, workspace: Workspace, damaged: bool = False) -> Finding:
    """Check that every patch still has the digest, or the colours, that the index holds."""
    subject, folder = f"store of {dataset}", workspace.store(dataset)
    if not folder.exists():
        return Finding(subject, "none yet")
    try:
        store = PatchStore.open(folder)
    except HistopipeError as problem:
        observation, _, remedy = str(problem).rpartition(": ")
        return Finding(subject, observation, "error", REPAIR if damaged else remedy)
    rows = damaged_rows(store, subject)
    if not len(rows):
        return Finding(subject, f"{len(store.index):,} patches, all as ingested")
    shards = sorted({int(number) for number in store.index["shard"].to_numpy()[rows]})
    named = ", ".join(shard_name(number) for number in shards[:3])
    observation = f"{len(rows):,} of {len(store.index):,} patches differ from the index, in {named}"
    remedy = REPAIR if damaged else f"`dvc checkout --force {folder.relative_to(workspace.root)}`"
    return Finding(subject, observation, "error", remedy)


def damaged_rows(store: PatchStore, title: str) -> Rows:
    """Return the rows whose pixels aren't those that were ingested.

    A patch that was stored unchanged is compared by its digest. For one that was resized or padded, the index has the
    digest of the original, so its stored pixels are compared by their mean and standard deviation.
    """
    index = store.index
    height, width = store.patch_size
    whole = ((index["height"] == height) & (index["width"] == width)).to_numpy()
    digests, colours = index["digest"].to_numpy(), index[COLOURS].to_numpy()
    damaged = np.zeros(len(index), bool)
    starts = range(0, len(index), CHUNK)
    for start in tqdm(starts, desc=title, unit="k patch", file=sys.stderr, leave=False):
        rows = np.arange(start, min(start + CHUNK, len(index)))
        patches = store.gather(rows)
        computed = [xxhash.xxh3_128_hexdigest(patch.data) for patch in patches]
        is_same = np.where(whole[rows], digests[rows] == computed, True)
        damaged[rows] = ~is_same | (colour_statistics(patches) != colours[rows]).any(axis=1)
    return np.flatnonzero(damaged)
