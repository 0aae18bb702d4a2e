"""The source of one data set as specified in `params.yaml`, and how messages may show it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from histopipe.core.addresses import public_source
from histopipe.core.names import remove_control_characters
from histopipe.core.params import DatasetParams, Params
from histopipe.core.workspace import Workspace
from histopipe.ingest.datasets import Dataset, get_dataset, list_datasets

MANIFEST_NAME = "manifest.csv"  # next to the archive under `data/raw/`


@dataclass(frozen=True)
class SourceSpec:
    """The specification of one data set's source.

    Attributes:
        dataset: name of the data set.
        params: the parameters in `params.yaml`.
        workspace: paths of the checkout.
    """

    dataset: str
    params: Params
    workspace: Workspace

    @property
    def block(self) -> DatasetParams:
        """Return the data set's block in `params.yaml`."""
        return self.params.dataset(self.dataset)

    @property
    def source(self) -> str:
        """Return the value of `source`, including credentials, so never show it."""
        return self.block.source

    @property
    def display_source(self) -> str:
        """Return the value of `source` without credentials, for messages and records."""
        return public_source(self.source)

    @property
    def definition(self) -> Dataset | None:
        """Return the definition of a built-in data set; None for one with a manifest."""
        if self.block.manifest is not None or self.dataset not in list_datasets():
            return None
        return get_dataset(self.dataset, self.block.magnification, self.block.case)

    @property
    def patch_bytes(self) -> int | None:
        """Return the bytes of a patch in the store; None if the patch size isn't set."""
        size = self.block.patch_size or (self.definition.patch_size if self.definition else None)
        return size[0] * size[1] * 3 if size else None

    def key(self, name: str) -> str:
        """Return a key of the data set as it is named in `params.yaml`, such as `idc.source`."""
        return f"{self.dataset}.{name}"

    def path(self, text: str) -> Path:
        """Resolve a path in `params.yaml`; a relative one starts from the checkout."""
        try:
            return self.workspace.checkout / Path(text).expanduser()
        except (RuntimeError, ValueError):  # `~name` of a user who doesn't exist
            return self.workspace.checkout / text


def make_archive_name(name: str, dataset: str) -> str:
    """Return a safe file name for the archive, other than that of the manifest next to it."""
    bare = re.sub(r"[/\\\ud800-\udfff]", "", remove_control_characters(name)).strip().lstrip(".")[-100:]
    return bare if bare and bare != MANIFEST_NAME else f"{dataset}.archive"
