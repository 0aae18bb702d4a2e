"""Whole slides predicted by a network that never saw a patch of them: their maps, and how well they follow the truth.

A recipe is trained on a sample of many cases by the pipeline's own stages, the slides' cases excluded. The slides are
then predicted with the calibration and threshold of the sample's validation cases.

    python -m benchmarks.slides --sample idc-sample.zip --slides idc-slides.zip --pictures maps
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from benchmarks.measuring import report
from benchmarks.recipes import ingest_into, prepare, shipped_params, trained

DATASET = "idc"
NO_RIVAL = "one network's maps are measured against the truth; nothing else is timed"


def cases_in(archive: Path) -> list[str]:
    """List the ids of the cases in an archive of IDC's layout."""
    from histopipe.ingest.datasets import get_dataset

    with zipfile.ZipFile(archive) as members:
        read = [get_dataset(DATASET).read_name(name) for name in members.namelist()]
    return sorted({patch.case_id for patch in read if patch})


def predict_slides(sample: Path, slides: Path, recipe: str, pictures: Path) -> list[dict[str, Any]]:
    """Predict every patch of the ingested slides, draw their maps and measure each.

    Args:
        sample: the workspace with the trained and evaluated recipe.
        slides: the workspace with the ingested slides.
        recipe: its name.
        pictures: the folder for the maps, in `figures/slides/`.

    Returns:
        A row per slide: its row of `case_table`, and the `correlation` of probability and truth.
    """
    from histopipe.core.files import read_json
    from histopipe.core.params import EvaluateParams
    from histopipe.core.workspace import Workspace
    from histopipe.data.store import PatchStore
    from histopipe.evaluation.cases import case_table
    from histopipe.evaluation.predictions import predictions_of, predictions_table
    from histopipe.evaluation.slide_figures import draw_slides
    from histopipe.networks.logits import finite_logits, load_network

    workspace = Workspace(sample)
    network = load_network(workspace.model(DATASET, recipe) / "model.keras")
    point = read_json(workspace.evaluation(DATASET, recipe) / "operating_point.json")
    store = PatchStore.open(Workspace(slides).store(DATASET))
    table = store.index[["file", "case_id", "label"]].copy()
    table.insert(2, "split", "test")
    table["row"] = np.arange(len(table))
    table.insert(4, "logit", finite_logits(network, store, table["row"].to_numpy(), f"slides {recipe}"))
    table = predictions_table(table, point)
    pictures.mkdir(parents=True, exist_ok=True)
    draw_slides(table, store, point, EvaluateParams(), pictures)
    rows = case_table(predictions_of(table, "test"), table["case_id"])
    by_case = {str(case): correlation(part) for case, part in table.groupby("case_id")}
    records = rows.assign(correlation=rows["case_id"].map(by_case)).round(3).to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in records]


def correlation(part: pd.DataFrame) -> float:
    """Compute Pearson's correlation of one slide's probabilities and its truth."""
    return float(np.corrcoef(part["label"], part["probability"])[0, 1])


@click.command()
@click.option("--sample", type=click.Path(exists=True, path_type=Path), required=True, help="Archive to train on.")
@click.option(
    "--slides", type=click.Path(exists=True, path_type=Path), required=True, help="Archive of the slides to predict."
)
@click.option("--recipe", default="histonet", show_default=True)
@click.option("--seed", default=42, show_default=True)
@click.option("--max-epochs", type=int, help="Cap the recipe, where time is short.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-slides")
@click.option("--pictures", type=click.Path(path_type=Path), required=True, help="Where the maps go.")
def main(
    sample: Path, slides: Path, recipe: str, seed: int, max_epochs: int | None, folder: Path, pictures: Path
) -> None:
    """Train without the slides' cases, then predict the slides; the last line is JSON with a row per slide."""
    excluded = cases_in(slides)
    prepare(folder / "trained", DATASET, sample, seed, "auto", max_epochs, excluded)
    trained(folder / "trained", DATASET, recipe)
    ingest_into(folder / "slides", DATASET, slides, shipped_params())
    rows = predict_slides(folder / "trained", folder / "slides", recipe, pictures)
    print(json.dumps(rows, indent=1), file=sys.stderr)
    report("slides", NO_RIVAL, recipe=recipe, seed=seed, max_epochs=max_epochs, excluded=excluded, slides=rows)


if __name__ == "__main__":
    main()
