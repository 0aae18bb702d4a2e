"""Parts of an archive: shards that were decoded separately and that ingest puts together.

A part is a run of whole shards, each the same as an ingest of the whole archive would write it, so it doesn't matter
where it was decoded. Its folder is named by a key, a digest of everything that determines its content. Parts under
another key are outdated.
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
from histopipe.core.outputs.claims import remove_own_folder
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.data.store import shard_name
from histopipe.ingest.plan import PlannedPatch
from histopipe.ingest.shards import Shard

CODE = (  # the same modules as in dvc.yaml
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
FILES = tuple(f"*/patches-*.{suffix}" for suffix in ("npy", "parquet", "json"))  # in the folder of a key's parts
_CHUNK = 2**20
_COUNT = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Part:
    """One of several parts of an archive, written `3/8`.

    Attributes:
        number: which part, counted from 1.
        of: how many parts there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Parse a part from text such as `3/8`.

        Raises:
            HistopipeError: the text has another form.
        """
        number, _, of = text.partition("/")
        if not (_COUNT.fullmatch(number) and _COUNT.fullmatch(of) and 1 <= int(number) <= int(of)):
            raise HistopipeError(f"{text!r} is not a part of an archive: write 1/3, 2/3 or 3/3 for one of three parts")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}-{self.of}"

    def list_shards(self, count: int) -> range:
        """Return the numbers of this part's shards, out of `count`; parts differ by at most one shard."""
        return range((self.number - 1) * count // self.of, self.number * count // self.of)


def compute_parts_key(dataset: str, params: Params, workspace: Workspace) -> str:
    """Compute the digest of all that determines a shard's content: archive, manifest, parameters, code, libraries."""
    package = Path(__file__).parents[1]
    code = sorted(path for pattern in CODE for path in package.glob(pattern))
    lock = workspace.root / "requirements.lock"
    raw = sorted(path for path in workspace.raw(dataset).iterdir() if path.is_file())
    lines = [params.dataset(dataset).model_dump_json(), *map(file_digest, [*code, *([lock] if lock.exists() else [])])]
    return hashlib.sha256("\n".join([*lines, *map(_compute_quick_digest, raw)]).encode()).hexdigest()


def _compute_quick_digest(path: Path) -> str:
    """Compute a digest that is as fast as reading the file, but doesn't protect against forgery."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_description(shard: Shard) -> None:
    """Write the index and the rejected members of a shard next to its pixels, for `read_shards`."""
    shard.index.to_parquet(shard.path.with_suffix(".parquet"), index=False)
    write_json(shard.path.with_suffix(".json"), shard.rejected)


def read_shards(folder: Path, shards: Sequence[Sequence[PlannedPatch]]) -> dict[int, Shard]:
    """Read the shards of all parts in a folder; those that are damaged or don't fit the plan are left out.

    Args:
        folder: folder of the parts under one key.
        shards: the planned patches of each shard.

    Returns:
        Shards by number.
    """
    decoded: dict[int, Shard] = {}
    for number, patches in enumerate(shards):
        for path in folder.glob(f"[0-9]*-[0-9]*/{shard_name(number)}"):
            shard = _read_shard(path)
            if shard is not None and len(shard.index) + len(shard.rejected) == len(patches):
                decoded[number] = shard
    return decoded


def _read_shard(path: Path) -> Shard | None:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        index = pd.read_parquet(path.with_suffix(".parquet"))
        rejected = [(str(reason), str(file)) for reason, file in read_json(path.with_suffix(".json"))]
    except (OSError, ValueError, TypeError, EOFError, HistopipeError):
        return None
    return Shard(path, index, rejected) if _is_intact(pixels, index) else None


def _is_intact(pixels: NDArray[np.uint8], index: pd.DataFrame) -> bool:
    """Return whether the pixels are those that were decoded; the disk may have damaged them since.

    The index has the digests of the original images, so only patches stored at their original size can be checked.
    """
    if len(pixels) != len(index) or "digest" not in index:
        return False
    original = (index["height"] == pixels.shape[1]) & (index["width"] == pixels.shape[2])
    rows = np.flatnonzero(original)
    digests = (xxhash.xxh3_128_hexdigest(np.ascontiguousarray(pixels[row]).data) for row in rows)
    return all(digest == expected for digest, expected in zip(digests, index["digest"].iloc[rows], strict=True))


def link_shard(shard: Shard, target: Path) -> Shard:
    """Link a shard's pixels to `target` and return the shard there.

    The file of the part remains, so that an ingest after a kill can use it again.
    """
    pixels = shard.path.resolve()
    try:
        os.link(pixels, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(pixels, target)
    return replace(shard, path=target)


def forget_other_keys(folder: Path) -> None:
    """Delete the folders of outdated keys next to `folder`, which holds the parts of the current key."""
    for other in folder.parent.iterdir() if folder.parent.exists() else ():
        if other != folder:
            remove_own_folder(other, FILES)
