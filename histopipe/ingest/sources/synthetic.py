"""The source of synthetic data, which histopipe draws itself."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histopipe.core.errors import SourceError
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import SourceSpec

# Mean size of a synthetic member, including nested copies; real ones take about 6,000, 13,000 (shrunk) and 550,000.
_BYTES_PER_PATCH = {"idc": 6450, "malaria": 20_500, "breakhis": 439_000}


@dataclass(frozen=True)
class SyntheticSource:
    """Synthetic slides, determined by the settings under `synthetic`, the seed and the drawing code."""

    spec: SourceSpec

    def locate(self) -> SourceRecord:
        """Return a record of the settings and the drawing code, which together determine every pixel.

        Raises:
            SourceError: there are no synthetic slides for the data set.
        """
        require_drawable(self.spec.dataset)
        return SourceRecord(
            kind="synthetic",
            source=self.spec.display_source,
            resolved="histopipe.synthetic",
            name=f"{self.spec.dataset}-synthetic.zip",
            size=self.estimate_patches() * _BYTES_PER_PATCH[self.spec.dataset],
            fingerprint={**self._collect_settings(), "code": code_digest()},
        )

    def estimate_patches(self) -> int:
        """Return the number of patches to draw."""
        return self.spec.params.synthetic.patches_of(self.spec.dataset)

    def _collect_settings(self) -> dict[str, Any]:
        """Return the settings for this data set, which those for other data sets don't affect."""
        synthetic = self.spec.params.synthetic
        return {
            "cases": synthetic.cases,
            "patches": self.estimate_patches(),
            "nested_copy": synthetic.nested_copy,
            "seed": self.spec.params.seed,
        }

    def fetch(self, record: SourceRecord, target: Path) -> None:
        """Draw the archive.

        Raises:
            SourceError: the settings or the drawing code changed since `record` was written.
        """
        if self.locate().fingerprint != record.fingerprint:
            raise SourceError(
                f"the synthetic settings or code changed: run `histopipe locate {self.spec.dataset}` again"
            )
        from histopipe.ingest.synthetic.archive import write_archive
        from histopipe.ingest.synthetic.plan import SyntheticSlides

        write_archive(target, SyntheticSlides(**self._collect_settings(), dataset=self.spec.dataset), progress=True)


def require_drawable(dataset: str) -> None:
    """Check that synthetic slides can replace a data set.

    Raises:
        SourceError: there are no synthetic slides for the data set.
    """
    from histopipe.ingest.synthetic.plan import list_drawn

    if dataset not in list_drawn():
        raise SourceError(
            f"synthetic slides exist for {', '.join(list_drawn())} only: "
            f"set {dataset}.source to the archive, folder or URL of {dataset}"
        )


def code_digest() -> str:
    """Compute the SHA-256 of the drawing code, so that slides are drawn again when it changes."""
    module = importlib.util.find_spec("histopipe.ingest.synthetic")  # doesn't import it
    if module is None or module.origin is None:
        raise SourceError("histopipe.ingest.synthetic is not installed: reinstall histopipe")
    origin = Path(module.origin)
    files = sorted(origin.parent.rglob("*.py")) if module.submodule_search_locations else [origin]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(origin.parent).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
