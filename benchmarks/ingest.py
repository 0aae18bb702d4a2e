"""From archive to every patch decoded once: histopipe's ingest compared with the tutorials' way.

The tutorials' way: unzip everything, copy every file into training, validation and testing folders by class, then one
unaugmented pass of Keras' directory generator; timed on every fourth patch and extrapolated. Ours: `ingest`, which
decodes every patch into the packed store. The best that the machine could do is measured by the fastest PNG decoder at
hand, on all cores, from memory, discarding the result.

python -m benchmarks.ingest            # full-size synthetic archive, about 8 minutes the first time
"""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import imagecodecs
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from benchmarks.measuring import report, sides_in_turn
from histopipe.core.processes import available_cores

PUBLISHED_PATCHES = 277_524
PUBLISHED_CASES = 279
SAMPLED = 4  # the tutorials' way is timed on every fourth patch
ROOT = Path(__file__).parents[1]


def full_size_archive(folder: Path, patches: int) -> Path:
    """Draw a synthetic archive of the published size, once, and return its path."""
    from histopipe.ingest.synthetic.archive import write_archive
    from histopipe.ingest.synthetic.plan import SyntheticSlides

    archive = folder / f"idc-{patches}.zip"
    if not archive.exists():
        cases = max(3, round(PUBLISHED_CASES * patches / PUBLISHED_PATCHES))
        write_archive(archive, SyntheticSlides(cases=cases, patches=patches, nested_copy=False))
    return archive


def ours(archive: Path, folder: Path) -> dict[str, float]:
    """Measure the seconds of the ingest stage."""
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.ingest.stage import ingest

    workspace = Workspace(folder)
    raw = workspace.raw("idc")
    raw.mkdir(parents=True)
    (raw / archive.name).symlink_to(archive)
    params = read_params(ROOT / "params.yaml")
    began = time.perf_counter()
    record = ingest("idc", params, workspace)
    return {"seconds": time.perf_counter() - began, "patches": record["patches"]}


def tutorial(archive: Path, folder: Path) -> dict[str, float]:
    """Measure the seconds of unzipping, copying and one pass of the generator, extrapolated from a sample."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    began = time.perf_counter()
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder / "original", content.namelist()[::SAMPLED])
    unzipped = time.perf_counter()
    _copy_into_splits(folder / "original", folder / "dataset")
    copied = time.perf_counter()
    patches = 0
    for split in ("training", "validation", "testing"):
        batches = ImageDataGenerator(rescale=1 / 255.0).flow_from_directory(
            folder / "dataset" / split,
            class_mode="categorical",
            target_size=(48, 48),
            shuffle=False,
            batch_size=32,
        )
        patches += sum(len(batches[number][0]) for number in range(len(batches)))
    ended = time.perf_counter()
    seconds = {"seconds": ended - began, "unzip": unzipped - began, "copy": copied - unzipped, "pass": ended - copied}
    return {name: SAMPLED * taken for name, taken in seconds.items()} | {"patches": patches}


def decoder(archive: Path, folder: Path) -> dict[str, float]:
    """Measure the seconds that the fastest decoder takes for all patches, on all cores, without reading them.

    Which one that is may change from round to round where two are about as quick.
    """
    with zipfile.ZipFile(archive) as content:
        names = [name for name in content.namelist() if name.endswith(".png")]
        sample = [content.read(name) for name in names[:2000]]
    library = min(DECODERS, key=lambda name: _decoding(name, sample))
    cores = available_cores()
    parts = [(str(archive), names[number::cores], library) for number in range(cores)]
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        seconds = max(pool.starmap(_decode_part, parts))
    print(f"decoded by {library}", file=sys.stderr)
    return {"seconds": seconds, "patches": len(names)}


def _decode_part(archive: str, names: list[str], library: str) -> float:
    seconds = 0.0
    with zipfile.ZipFile(archive) as content:
        for start in range(0, len(names), 2000):
            seconds += _decoding(library, [content.read(name) for name in names[start : start + 2000]])
    return seconds


def _decoding(library: str, files: list[bytes]) -> float:
    decode = DECODERS[library]
    began = time.perf_counter()
    for file in files:
        decode(file)
    return time.perf_counter() - began


def _by_pillow(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(PIL.Image.open(io.BytesIO(file)))


DECODERS: dict[str, Callable[[bytes], object]] = {
    "libspng": imagecodecs.spng_decode,
    "libpng": imagecodecs.png_decode,
    "pillow": _by_pillow,
}


def _copy_into_splits(source: Path, target: Path) -> None:
    """Copy 80 % of the images to training, a tenth of those to validation, 20 % to testing, by image."""
    splits = ("training",) * 7 + ("validation",) + ("testing",) * 2
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        folder = target / splits[number % 10] / path.stem[-1]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / path.name)


@click.command()
@click.option("--patches", default=PUBLISHED_PATCHES, show_default=True, help="Size of the archive.")
@click.option("--rounds", default=5, show_default=True, help="How often each side runs.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
@click.option("--side", type=click.Choice(["ours", "tutorial", "decoder"]), hidden=True)
def main(patches: int, rounds: int, folder: Path, side: str | None) -> None:
    """Compare the two ways; the last line is JSON and holds `ratio`."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = full_size_archive(folder, patches)
    if side:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            measured = {"ours": ours, "tutorial": tutorial, "decoder": decoder}[side](archive, Path(scratch))
        print(json.dumps(measured))
        return
    options = ("--patches", str(patches), "--folder", str(folder))
    results = sides_in_turn("ingest", ("ours", "tutorial", "decoder"), rounds, *options)
    seconds = results["ours"]["seconds"]
    report(
        "ingest",
        ratio=round(results["tutorial"]["seconds"] / seconds, 2),
        ratio_unzip_and_copy=round((results["tutorial"]["unzip"] + results["tutorial"]["copy"]) / seconds, 2),
        of_decoder=round(results["decoder"]["seconds"] / seconds, 3),
        patches=patches,
        rounds=rounds,
        **results,
    )


if __name__ == "__main__":
    main()
