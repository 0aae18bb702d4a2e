"""The record that `locate` writes, and the interface of every kind of source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from histopipe.core.errors import SourceError
from histopipe.core.files import read_json, write_json


@dataclass(frozen=True)
class SourceRecord:
    """The state of a source. Two records are equal exactly if the source hasn't changed.

    Attributes:
        kind: `synthetic`, `archive`, `folder`, `web` or `kaggle`.
        source: the value in `params.yaml`, without credentials.
        resolved: what the value refers to. A relative path stays relative to the checkout, so that clones agree.
        name: file name of the archive under `data/raw/`.
        size: size of the archive in bytes, or an estimate; None if unknown.
        fingerprint: values that change whenever the content does.
        manifest: path and SHA-256 of the data set's manifest, if it has one.
    """

    kind: str
    source: str
    resolved: str
    name: str
    size: int | None
    fingerprint: dict[str, Any]
    manifest: dict[str, str] | None = None

    @classmethod
    def read(cls, path: Path) -> SourceRecord:
        """Read a record that `locate` wrote.

        Raises:
            HistopipeError: the record is missing or damaged.
        """
        content = read_json(path)
        try:
            return cls(**{"size": None, **content})  # `write` leaves out what is None
        except TypeError:
            raise SourceError(f"{path} is not the record of a source: run `histopipe locate {path.stem}`") from None

    def write(self, path: Path) -> None:
        """Write the record as JSON, completely or not at all."""
        write_json(path, {key: value for key, value in asdict(self).items() if value is not None})


class Source(Protocol):
    """The interface of every kind of source."""

    def locate(self) -> SourceRecord:
        """Return the current record of the source without fetching it.

        Raises:
            UnreachableError: the source can't be reached now.
            SourceError: the source is missing, or isn't an archive.
        """
        ...

    def estimate_patches(self) -> int | None:
        """Estimate the number of patches, if that takes little time; else return None."""
        ...

    def fetch(self, record: SourceRecord, target: Path) -> None:
        """Write the archive that `record` describes to `target`.

        Raises:
            SourceError: the source can't be fetched, or is no longer the one that `record` describes.
        """
        ...
