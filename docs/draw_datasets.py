"""Drawing of docs/images/datasets.png: synthetic patches of the three data sets, negative left, positive right.

python docs/draw_datasets.py            # or `make pictures`; takes some seconds
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from histopipe.ingest.datasets import get_dataset
from histopipe.ingest.synthetic.archive import write_archive
from histopipe.ingest.synthetic.plan import SyntheticSlides, list_drawn

PICTURE = Path(__file__).parent / "images" / "datasets.png"
WIDTH, GAP = 820, 4  # pixels
SHOWN = {"idc": (10, 80), "malaria": (10, 80), "breakhis": (6, 133)}  # patches per row, and their width
PATCHES = {"idc": 2000, "malaria": 200, "breakhis": 60}
COLOURS = 256  # a palette keeps the file small


def draw_row(dataset: str, folder: Path) -> Image.Image:
    """Draw a row of patches, each from another case."""
    path = folder / f"{dataset}.zip"
    write_archive(path, SyntheticSlides(cases=20, patches=PATCHES[dataset], nested_copy=False, dataset=dataset))
    count, width = SHOWN[dataset]
    patch_height, patch_width = get_dataset(dataset).patch_size
    size = (width, width * patch_height // patch_width)
    row = Image.new("RGB", (WIDTH, size[1]), "white")
    with zipfile.ZipFile(path) as archive:
        chosen = [name for label in (0, 1) for name in choose(archive.namelist(), dataset, label, count // 2)]
        for index, name in enumerate(chosen):
            patch = Image.open(io.BytesIO(archive.read(name))).resize(size, Image.Resampling.BILINEAR)
            left = index * (WIDTH + GAP) // count
            row.paste(patch, (left, 0))
    return row


def choose(names: list[str], dataset: str, label: int, count: int) -> list[str]:
    """Choose one patch from each of `count` cases with a fixed seed; those of BreakHis by increasing magnification."""
    order = np.random.default_rng(2).permutation(sorted(names))
    chosen: dict[str, str] = {}
    for name in order.tolist():
        patch = get_dataset(dataset).read_name(name)
        if patch and patch.label == label:
            chosen.setdefault(patch.case_id, name)
    first = list(chosen.values())[:count]
    return sorted(first, key=lambda name: int(name.split("-")[-2])) if dataset == "breakhis" else first


def main() -> None:
    """Draw and save the picture."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [draw_row(dataset, Path(folder)) for dataset in list_drawn()]
    picture = Image.new("RGB", (WIDTH, sum(row.height + GAP for row in rows) - GAP), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height + GAP
    picture.quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
