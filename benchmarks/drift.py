"""Rates at which drift is found where there is none, and where there is, on real cases that the model never saw.

Needs a checkout in which a model was trained and evaluated. Some of its held-out cases are taken for new ones, as they
are, or as another scanner or stain would have shown them; the reference is what remains.

    python -m benchmarks.drift --archive ../shared/data/malaria-sample.zip
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.measuring import report
from histopipe.core.colours import COLOURS, colour_statistics
from histopipe.core.files import read_json
from histopipe.core.operating_point import ChosenPoint
from histopipe.core.params import MonitorParams
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import split_of_patches
from histopipe.data.store import PatchStore
from histopipe.evaluation.drift.profiles import new_profiles, reference_profiles
from histopipe.evaluation.predictions import calibration_of, read_predictions
from histopipe.ingest.archives.reading import open_archive
from histopipe.ingest.datasets import MemberRejected, get_dataset
from histopipe.ingest.images import decode_patch, resize_patch
from histopipe.monitoring.comparison import compare_profiles
from histopipe.networks.logits import load_network
from histopipe.networks.prediction import logit_network
from histopipe.networks.predictor import predictor_for
from histopipe.training.augmentation import STAINS

Pixels = NDArray[np.uint8]  # (patches, height, width, 3)
Predict = Callable[[Pixels], NDArray[Any]]

DARKER = 0.85  # factor of the pixels
STAIN = (1.3, 0.7, 1.0)  # haematoxylin, eosin, rest
SLIGHT_STAIN = (1.1, 0.9, 1.0)


def restained(patches: Pixels, amounts: tuple[float, ...]) -> Pixels:
    """Change the stains' amounts by these factors, in optical density, as the augmentation does."""
    factors = np.linalg.inv(STAINS) @ np.diag(amounts) @ STAINS
    densities = -np.log((patches.astype(np.float32) + 1) / 256)
    return np.asarray(np.clip(256 * np.exp(-densities @ factors) - 1, 0, 255)).round().astype(np.uint8)


def changes(patches: Pixels) -> Iterator[tuple[str, Pixels]]:
    """Yield the patches unchanged, and as other scanners or stains would show them."""
    from scipy.ndimage import gaussian_filter

    yield "as they are", patches
    yield "darker scan (0.85)", (patches * DARKER).astype(np.uint8)
    yield "blurred scan (1.5 px)", gaussian_filter(patches, (0, 1.5, 1.5, 0))
    yield "slightly other stain (1.1, 0.9)", restained(patches, SLIGHT_STAIN)
    yield "other stain (1.3, 0.7)", restained(patches, STAIN)


def profile(patches: Pixels, cases: pd.Series, logits: Predict, point: ChosenPoint) -> pd.DataFrame:
    """Compute profiles of patches, predicted as by `histopipe predict`."""
    table = pd.DataFrame(colour_statistics(patches), columns=COLOURS)
    table["probability"] = calibration_of(point).apply(logits(patches).astype(np.float64))
    return new_profiles(table.assign(case_id=cases.to_numpy()))


def drawn(cases: pd.Series, most: int) -> NDArray[np.intp]:
    """Return positions of at most `most` randomly drawn patches of each case."""
    shuffled = cases.reset_index(drop=True).sample(frac=1, random_state=0)
    return np.sort(shuffled.index[shuffled.groupby(shuffled).cumcount() < most].to_numpy())


def other_set(archive: Path, dataset: str, size: tuple[int, int], most: int) -> tuple[Pixels, pd.Series]:
    """Read patches of a very different kind, resized to the model's patch size."""
    described = get_dataset(dataset)
    patches, cases = [], []
    with closing(open_archive(archive)) as opened:
        for member, payload in zip(opened.members, opened.payloads(opened.members), strict=True):
            try:
                name = described.read_name(member.name)
                patch = resize_patch(decode_patch(payload()), size) if name else None
            except MemberRejected:
                continue
            if name is None or patch is None:
                continue
            patches.append(patch)
            cases.append(name.case_id)
            if len(cases) == most:
                break
    return np.stack(patches), pd.Series(cases)


def alarms(reference: pd.DataFrame, new: pd.DataFrame, count: int, repeats: int) -> dict[str, Any]:
    """Compute how often `count` of the new cases raise an alarm, and their median distances."""
    random = np.random.default_rng(count)
    params = MonitorParams()
    eligible = new.loc[new["patches"] >= params.min_patches, "case_id"].unique()
    drawn = [random.choice(eligible, count, replace=False) for _ in range(repeats)]
    comparisons = [compare_profiles(reference, new[new["case_id"].isin(cases)], params, 0) for cases in drawn]
    distances = np.median([comparison.features["distance"] for comparison in comparisons], axis=0)
    names = comparisons[0].features["feature"]
    return {
        "cases": count,
        "alarms": float(np.mean([comparison.verdict == "drift" for comparison in comparisons])),
        "undecided": float(np.mean([comparison.verdict == "undecided" for comparison in comparisons])),
        **{name: round(float(value), 2) for name, value in zip(names, distances, strict=True)},
    }


@click.command()
@click.option("--checkout", type=click.Path(path_type=Path), default=Path(), help="With a trained model; this one.")
@click.option("--dataset", default="idc", show_default=True)
@click.option("--architecture", default="histonet", show_default=True)
@click.option("--archive", type=click.Path(path_type=Path), help="Of malaria cells, as a grossly different set.")
@click.option("--counts", default="1,3,10", show_default=True, help="Numbers of new cases.")
@click.option(
    "--repeats", default=50, show_default=True, help="Draws of new cases; of cases as they are, six times as many."
)
@click.option("--patches", "most", default=30, show_default=True, help="Of a held-out case, at most.")
def main(
    checkout: Path, dataset: str, architecture: str, archive: Path | None, counts: str, repeats: int, most: int
) -> None:
    """Print a table; the last line is JSON and holds the rates."""
    workspace = Workspace.find(checkout)
    store = PatchStore.open(workspace.store(dataset))
    folder = workspace.evaluation(dataset, architecture)
    predictions, point = read_predictions(folder / "predictions.parquet"), read_json(folder / "operating_point.json")
    splits = split_of_patches(workspace.split(dataset), store.index)
    reference = reference_profiles(store.index, splits, predictions)
    loaded = logit_network(load_network(workspace.model(dataset, architecture) / "model.keras"))
    logits = predictor_for(loaded, store.patch_size).logits
    held_out = np.flatnonzero(splits.isin(["validation", "test"]).to_numpy())
    held_out = held_out[drawn(store.index["case_id"].iloc[held_out], most)]
    patches, cases = store.gather(held_out), store.index["case_id"].iloc[held_out]
    print(f"{len(held_out):,} patches of {cases.nunique()} held-out cases", file=sys.stderr)
    rows = []
    for name, changed in changes(patches):
        new = profile(changed, cases, logits, point)
        rows += rates(name, reference, new, counts, repeats)
    if archive:
        patches, cases = other_set(archive, "malaria", store.patch_size, 2000)
        chosen = drawn(cases, most)
        new = profile(patches[chosen], cases.iloc[chosen], logits, point)
        rows += rates("malaria cells", reference, new, counts, repeats)
    print(pd.DataFrame(rows).to_string(index=False))
    report("drift", "no rival", rates=rows)


def rates(name: str, reference: pd.DataFrame, new: pd.DataFrame, counts: str, repeats: int) -> list[dict[str, Any]]:
    """Compute a row per number of new cases."""
    times = 6 * repeats if name == "as they are" else repeats
    rows: list[dict[str, Any]] = []
    for count in map(int, counts.split(",")):
        if count <= new["case_id"].nunique():
            rows.append({"new cases": name, **alarms(reference, new, count, times)})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()
