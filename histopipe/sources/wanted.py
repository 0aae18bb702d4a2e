"""What `params.yaml` asks for one data set, and how its source may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from histopipe.datasets import Dataset, get_dataset, list_datasets
from histopipe.errors import SourceError
from histopipe.params import DatasetParams, Params
from histopipe.paths import Workspace

MANIFEST_NAME = "manifest.csv"  # beside the archive under `data/raw/`
_SECRET = re.compile(r"token|secret|passw|signature|credential|^sig$|^key$|apikey|api_key|access_?key", re.IGNORECASE)


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
        return public_url(self.source) if is_url(self.source) else self.source

    @property
    def layout(self) -> Dataset | None:
        """The built-in data set of that name; None for one that a manifest describes."""
        if self.block.manifest is not None or self.dataset not in list_datasets():
            return None
        return get_dataset(self.dataset, self.block.magnification)

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
        except RuntimeError:  # `~name` of a user who doesn't exist
            return self.workspace.home / text


def is_url(source: str) -> bool:
    """Whether a source is an http or https address."""
    return source.lower().startswith(("http://", "https://"))


def public_url(url: str) -> str:
    """A URL without user name, password, fragment and the values of query keys that sound secret.

    Raises:
        SourceError: it can't be read as a URL.
    """
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        raise SourceError("a source that starts like a URL can't be read as one: check its host and port") from None
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, _public_query(parts.query, query), ""))


def _public_query(written: str, pairs: list[tuple[str, str]]) -> str:
    if not any(_SECRET.search(key) for key, _ in pairs):
        return written
    return urlencode([(key, "..." if _SECRET.search(key) else value) for key, value in pairs], quote_via=quote)


def archive_name(name: str, dataset: str) -> str:
    """A file name for the archive that can stand in a folder beside the manifest."""
    bare = re.sub(r"[\x00-\x1f/\\\ud800-\udfff]", "", name).strip().lstrip(".")[-100:]
    return bare if bare and bare != MANIFEST_NAME else f"{dataset}.archive"
