"""The pixel size of a model's patches, which decides at what resolution slides are cut into tiles."""

from __future__ import annotations

from histopipe.core.params import DatasetParams
from histopipe.ingest.datasets import get_dataset, list_datasets


def trained_pixel_size(dataset: str, block: DatasetParams) -> float | None:
    """Return the pixel size of a data set's patches in micrometres: `mpp` of its block, else as published; or None.

    Args:
        dataset: the data set's name.
        block: its block in `params.yaml`.
    """
    if block.mpp is not None or block.manifest is not None or dataset not in list_datasets():
        return block.mpp
    return get_dataset(dataset, block.magnification, block.case).mpp
