"""How much tissue a pixel of a model's patches shows, which says at what size slides are cut up."""

from __future__ import annotations

from histopipe.core.params import DatasetParams
from histopipe.ingest.datasets import get_dataset, list_datasets


def trained_pixel_size(dataset: str, block: DatasetParams) -> float | None:
    """Micrometres to a pixel of a data set's patches: by `mpp` in its block, else as published; None where unknown.

    Args:
        dataset: the data set's name.
        block: its block of `params.yaml`.
    """
    if block.mpp is not None or block.manifest is not None or dataset not in list_datasets():
        return block.mpp
    return get_dataset(dataset, block.magnification, block.case).mpp
