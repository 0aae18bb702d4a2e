"""Shards that were decoded apart from the store: parts of an archive, for the ingest that puts them together.

A part is a run of whole shards, each as one ingest of everything would write it, so that it doesn't matter where it was
decoded. It lies in a folder named by a digest of all that decides its content: under another key it is worthless.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from histopipe.core.errors import HistopipeError
from histopipe.core.files import file_digest, read_json, write_json
from histopipe.core.outputs.claims import remove_known
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.data.store import shard_name
from histopipe.ingest.plan import Planned
from histopipe.ingest.shards import Shard

CODE = (  # as dvc.yaml names it
    "core/cases/*.py",
    "core/colours.py",
    "core/names.py",
    "core/system_files.py",
    "data/store.py",
    "ingest/archives/*.py",
    "ingest/datasets/*.*",
    "ingest/folders.py",
    "ingest/images.py",
    "ingest/packing.py",
    "ingest/parts.py",
    "ingest/plan.py",
    "ingest/report.py",
    "ingest/shards.py",
    "ingest/stage.py",
    "ingest/tiff_pixels.py",
)
FILES = tuple(f"*/patches-*.{suffix}" for suffix in ("npy", "parquet", "json"))  # in the folder of a key
_CHUNK = 2**20
_COUNT = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Part:
    """One of several parts of an archive, counted from 1; written `3/8`."""

    number: int
    of: int

    @classmethod
    def parse(cls, written: str) -> Part:
        """Read `3/8`.

        Raises:
            HistopipeError: it isn't written so.
        """
        number, _, of = written.partition("/")
        if not (_COUNT.fullmatch(number) and _COUNT.fullmatch(of) and 1 <= int(number) <= int(of)):
            raise HistopipeError(f"{written!r} is no part of an archive: write 1/3, 2/3 or 3/3 for one of three")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}-{self.of}"

    def of_shards(self, count: int) -> range:
        """Numbers of this part's shards, of `count`; the parts differ by one shard at most."""
        return range((self.number - 1) * count // self.of, self.number * count // self.of)


def parts_key(dataset: str, params: Params, workspace: Workspace) -> str:
    """Digest of everything that decides a shard's content: archive, manifest, parameters, code and libraries."""
    package = Path(__file__).parents[1]
    code = sorted(path for pattern in CODE for path in package.glob(pattern))
    lock = workspace.root / "requirements.lock"
    raw = sorted(path for path in workspace.raw(dataset).iterdir() if path.is_file())
    told = [params.dataset(dataset).model_dump_json(), *map(file_digest, [*code, *([lock] if lock.exists() else [])])]
    return hashlib.sha256("\n".join([*told, *map(_quick_digest, raw)]).encode()).hexdigest()


def _quick_digest(path: Path) -> str:
    """Of gigabytes, as fast as they are read; not against forgery."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_description(shard: Shard) -> None:
    """Write a shard's index and what it rejected beside its pixels, where `read_shards` finds them."""
    shard.index.to_parquet(shard.path.with_suffix(".parquet"), index=False)
    write_json(shard.path.with_suffix(".json"), shard.rejected)


def read_shards(folder: Path, planned: Sequence[Sequence[Planned]]) -> dict[int, Shard]:
    """The shards of every part that lies in `folder`, by number; what is damaged or doesn't fit the plan is left out.

    Args:
        folder: of the parts under one key.
        planned: the members of each shard.
    """
    found: dict[int, Shard] = {}
    for number, members in enumerate(planned):
        for path in folder.glob(f"[0-9]*-[0-9]*/{shard_name(number)}"):
            shard = _read(path)
            if shard is not None and len(shard.index) + len(shard.rejected) == len(members):
                found[number] = shard
    return found


def _read(path: Path) -> Shard | None:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        index = pd.read_parquet(path.with_suffix(".parquet"))
        rejected = [(str(reason), str(file)) for reason, file in read_json(path.with_suffix(".json"))]
    except (OSError, ValueError, TypeError, EOFError, HistopipeError):
        return None
    return Shard(path, index, rejected) if _holds(pixels, index) else None


def _holds(pixels: NDArray[np.uint8], index: pd.DataFrame) -> bool:
    """Whether the pixels are those that were decoded: a disk may have damaged them since.

    The index has the digests of images as they were found, so only those that were stored at their own size tell.
    """
    if len(pixels) != len(index) or "digest" not in index:
        return False
    as_found = (index["height"] == pixels.shape[1]) & (index["width"] == pixels.shape[2])
    rows = np.flatnonzero(as_found)
    digests = (xxhash.xxh3_128_hexdigest(np.ascontiguousarray(pixels[row]).data) for row in rows)
    return all(digest == known for digest, known in zip(digests, index["digest"].iloc[rows], strict=True))


def brought(shard: Shard, target: Path) -> Shard:
    """The shard with its pixels also at `target`: linked, so that a killed ingest finds its parts again."""
    pixels = shard.path.resolve()
    try:
        os.link(pixels, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(pixels, target)
    return replace(shard, path=target)


def forget_other_keys(folder: Path) -> None:
    """Delete the parts of other archives, parameters or code that lie beside the key's `folder`."""
    for other in folder.parent.iterdir() if folder.parent.exists() else ():
        if other != folder:
            remove_known(other, FILES)
