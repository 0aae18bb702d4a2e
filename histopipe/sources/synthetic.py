"""Slides that the project draws itself."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from histopipe.errors import SourceError
from histopipe.sources.record import SourceRecord
from histopipe.sources.wanted import Wanted

_BYTES_PER_PATCH = 6450  # mean of a drawn member, the nested copy included; Kaggle's own take about 6000

_DRAWN = ("idc",)  # data sets in whose layout slides are drawn


@dataclass(frozen=True)
class SyntheticSource:
    """Drawn from the settings under `synthetic` and the seed."""

    wanted: Wanted

    def locate(self) -> SourceRecord:
        """Record the settings and the drawing code, which together decide every pixel.

        Raises:
            SourceError: no slides are drawn in the data set's layout.
        """
        require_drawable(self.wanted.dataset)
        settings = {**self.wanted.params.synthetic.model_dump(), "seed": self.wanted.params.seed}
        return SourceRecord(
            kind="synthetic",
            source=self.wanted.shown,
            resolved="histopipe.synthetic",
            name=f"{self.wanted.dataset}-synthetic.zip",
            size=self.patches() * _BYTES_PER_PATCH,
            fingerprint={**settings, "code": code_digest()},
        )

    def patches(self) -> int:
        """As many as are drawn."""
        return self.wanted.params.synthetic.patches

    def bring(self, record: SourceRecord, target: Path) -> None:
        """Draw the archive.

        Raises:
            SourceError: settings or drawing code changed since `record` was written.
        """
        if self.locate().fingerprint != record.fingerprint:
            raise SourceError(
                f"the synthetic settings or code changed: run `histopipe locate {self.wanted.dataset}` again"
            )
        from histopipe.synthetic import SyntheticSlides, write_archive

        drawn = self.wanted.params.synthetic
        slides = SyntheticSlides(drawn.cases, drawn.patches, drawn.nested_copy, self.wanted.params.seed)
        write_archive(target, slides, progress=True)


def require_drawable(dataset: str) -> None:
    """Check that synthetic slides can stand in for a data set.

    Raises:
        SourceError: no slides are drawn in its layout.
    """
    if dataset not in _DRAWN:
        raise SourceError(
            f"synthetic slides are drawn for {', '.join(_DRAWN)} only: "
            f"set {dataset}.source to the archive, folder or URL of {dataset}"
        )


def code_digest() -> str:
    """SHA-256 over the drawing code, so that slides are drawn anew when it changes."""
    found = importlib.util.find_spec("histopipe.synthetic")  # finds without importing
    if found is None or found.origin is None:
        raise SourceError("histopipe.synthetic is not installed: install histopipe whole")
    origin = Path(found.origin)
    files = sorted(origin.parent.rglob("*.py")) if found.submodule_search_locations else [origin]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(origin.parent).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
