"""Slides that the project draws itself."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histopipe.core.errors import SourceError
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import Wanted

# Mean of a drawn member, the nested copy included; a real one takes about 6,000, 13,000 (shrunk) and 550,000.
_BYTES_PER_PATCH = {"idc": 6450, "malaria": 20_500, "breakhis": 439_000}


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
        return SourceRecord(
            kind="synthetic",
            source=self.wanted.shown,
            resolved="histopipe.synthetic",
            name=f"{self.wanted.dataset}-synthetic.zip",
            size=self.patches() * _BYTES_PER_PATCH[self.wanted.dataset],
            fingerprint={**self._settings(), "code": code_digest()},
        )

    def patches(self) -> int:
        """As many as are drawn."""
        return self.wanted.params.synthetic.patches_of(self.wanted.dataset)

    def _settings(self) -> dict[str, Any]:
        """What is drawn of this data set; another one's settings don't change it."""
        asked = self.wanted.params.synthetic
        return {
            "cases": asked.cases,
            "patches": self.patches(),
            "nested_copy": asked.nested_copy,
            "seed": self.wanted.params.seed,
        }

    def bring(self, record: SourceRecord, target: Path) -> None:
        """Draw the archive.

        Raises:
            SourceError: settings or drawing code changed since `record` was written.
        """
        if self.locate().fingerprint != record.fingerprint:
            raise SourceError(
                f"the synthetic settings or code changed: run `histopipe locate {self.wanted.dataset}` again"
            )
        from histopipe.ingest.synthetic.archive import write_archive
        from histopipe.ingest.synthetic.plan import SyntheticSlides

        write_archive(target, SyntheticSlides(**self._settings(), dataset=self.wanted.dataset), progress=True)


def require_drawable(dataset: str) -> None:
    """Check that synthetic slides can stand in for a data set.

    Raises:
        SourceError: no slides are drawn in its layout.
    """
    from histopipe.ingest.synthetic.plan import list_drawn

    if dataset not in list_drawn():
        raise SourceError(
            f"synthetic slides are drawn for {', '.join(list_drawn())} only: "
            f"set {dataset}.source to the archive, folder or URL of {dataset}"
        )


def code_digest() -> str:
    """SHA-256 over the drawing code, so that slides are drawn anew when it changes."""
    found = importlib.util.find_spec("histopipe.ingest.synthetic")  # finds without importing
    if found is None or found.origin is None:
        raise SourceError("histopipe.ingest.synthetic is not installed: install histopipe whole")
    origin = Path(found.origin)
    files = sorted(origin.parent.rglob("*.py")) if found.submodule_search_locations else [origin]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(origin.parent).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
