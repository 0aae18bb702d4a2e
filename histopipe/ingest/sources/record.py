"""What `locate` writes, and what every kind of source can do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from histopipe.core.errors import SourceError
from histopipe.core.files import read_json, write_json


@dataclass(frozen=True)
class SourceRecord:
    """A source as it was found. Two records are equal exactly when nothing about the source has changed.

    Attributes:
        kind: `synthetic`, `archive`, `folder`, `web` or `kaggle`.
        source: the value in `params.yaml`, without credentials.
        resolved: where that leads; relative to the checkout where the value is, so that clones agree.
        name: file name the archive gets under `data/raw/`.
        size: bytes the archive takes, or an estimate; None where nobody can say.
        fingerprint: what changes when the content does.
        manifest: path and SHA-256 of the data set's manifest, where it has one.
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
            HistopipeError: it is missing or damaged.
        """
        content = read_json(path)
        try:
            return cls(**{"size": None, **content})  # `write` leaves out what is None
        except TypeError:
            raise SourceError(f"{path} is not a source's record: run `histopipe locate {path.stem}`") from None

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, {key: value for key, value in asdict(self).items() if value is not None})


class Source(Protocol):
    """One kind of source."""

    def locate(self) -> SourceRecord:
        """Describe the source without bringing it here.

        Raises:
            UnreachableError: it can't be asked now.
            SourceError: it is missing, or it isn't an archive.
        """
        ...

    def patches(self) -> int | None:
        """About how many patches it holds, where that is cheap to tell."""
        ...

    def bring(self, record: SourceRecord, target: Path) -> None:
        """Write the archive that `record` describes to `target`.

        Raises:
            SourceError: it can't be had, or it is no longer what `record` describes.
        """
        ...
