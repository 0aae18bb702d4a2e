"""A task that predicts new patches and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from histopipe.core.workspace import Workspace, stage_name
from histopipe.inference.inputs import folder_key
from histopipe.inference.slide_prediction import MAPS
from histopipe.inference.stage import CASES
from tasks.artifacts import publish_preview, publish_table, table_rows
from tasks.declaration import stage_task
from tasks.parallel import for_prediction
from tasks.processes import run_stage

SHOWN_CASES, SHOWN_MAPS = 200, 10


@stage_task("predict", "predict-{dataset}", retries=2, delay=10)
def predict(dataset: str, inputs: Sequence[str], model: str, out: str, options: Sequence[str] = ()) -> Path:
    """Predict inputs and log the results; `options` are passed on to `histopipe predict`. Return the folder."""
    arguments = ["predict", *inputs, "--dataset", dataset, "--model", model, "--out", out, "--log", *options]
    with for_prediction() as environment:
        run_stage(stage_name("predict", dataset, folder_key(Path(out))), *arguments, environment=environment)
    folder = Workspace.find().root / out
    cases = pd.read_csv(folder / CASES, dtype={"case_id": str}, keep_default_na=False)
    publish_table(table_rows(cases.head(SHOWN_CASES)), f"New cases predicted by {model}", "score", dataset)
    for number, picture in enumerate(sorted((folder / MAPS).glob("*.png"))[:SHOWN_MAPS]):
        publish_preview(picture, f"Case {picture.stem}", "score-map", dataset, str(number))
    return folder
