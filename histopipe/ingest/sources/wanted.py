"""What `params.yaml` asks for one data set, and how its source may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from histopipe.core.addresses import public_source
from histopipe.core.names import without_control
from histopipe.core.params import DatasetParams, Params
from histopipe.core.workspace import Workspace
from histopipe.ingest.datasets import Dataset, get_dataset, list_datasets

MANIFEST_NAME = "manifest.csv"  # beside the archive under `data/raw/`


@dataclass(frozen=True)
class Wanted:
    """One data set's source as the user asks for it."""

    dataset: str
    params: Params
    workspace: Workspace

    @property
    def block(self) -> DatasetParams:
        """The data set's block in `params.yaml`."""
        return self.params.dataset(self.dataset)

    @property
    def source(self) -> str:
        """The value of `source`, credentials included: never to be shown."""
        return self.block.source

    @property
    def shown(self) -> str:
        """The value of `source` as messages and records may hold it."""
        return public_source(self.source)

    @property
    def layout(self) -> Dataset | None:
        """The built-in data set of that name; None for one that a manifest describes."""
        if self.block.manifest is not None or self.dataset not in list_datasets():
            return None
        return get_dataset(self.dataset, self.block.magnification, self.block.case)

    @property
    def patch_bytes(self) -> int | None:
        """What one patch takes in the packed store, where the patch size is declared."""
        size = self.block.patch_size or (self.layout.patch_size if self.layout else None)
        return size[0] * size[1] * 3 if size else None

    def key(self, name: str) -> str:
        """A key of the data set as users find it in `params.yaml`: `idc.source`."""
        return f"{self.dataset}.{name}"

    def path(self, text: str) -> Path:
        """A path from `params.yaml`, relative ones from the checkout."""
        try:
            return self.workspace.home / Path(text).expanduser()
        except (RuntimeError, ValueError):  # `~name` of a user who doesn't exist, or can't
            return self.workspace.home / text


def archive_name(name: str, dataset: str) -> str:
    """A file name for the archive that can stand in a folder beside the manifest."""
    bare = re.sub(r"[/\\\ud800-\udfff]", "", without_control(name)).strip().lstrip(".")[-100:]
    return bare if bare and bare != MANIFEST_NAME else f"{dataset}.archive"
