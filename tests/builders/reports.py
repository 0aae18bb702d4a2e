"""A small evaluated workspace with everything that a report shows; only the network is made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from histopipe.core.files import file_digest, write_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, REPORT_FILE, PatchStore, shard_name
from histopipe.evaluation.figures import draw_figures
from histopipe.evaluation.predictions import choose_operating_point, evaluate_predictions, predictions_table
from histopipe.evaluation.slide_figures import draw_slides
from histopipe.evaluation.stage import tables_by_part, write_outputs
from histopipe.training.recipe import recipe_digest

HOSTILE = "<script>alert('case')</script>"
MATHEMATICAL = r"A$^$B \x$1$"  # as a formula it is none
HOSTILE_FILE = '"><img src=x onerror=alert(1)>.png'
CASES, SIDE, PATCH = 18, 6, 50  # cases, patches along a slide's side, pixels of a patch
SPLITS = ("train", "validation", "test")
RECIPE = {"optimizer": {"name": "adam", "learning_rate": 0.001}, "epochs": 2}
PUBLISHED = {"dataset": "idc", "split": "by image", "metrics": {"accuracy": 0.837, "f1": 0.747}, "source": "at 48 px"}
LINEAGE = {"git_commit": "c0ffee" + "0" * 34, "git_dirty": "true", "dvc_store": "5708e.dir", "dvc_split": "59117"}
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train/loss": [0.9, 0.6, 0.5],
        "validation/loss": [0.7, 0.75, np.nan],
        "validation/roc_auc": [0.81, 0.89, 0.87],
        "validation/accuracy": [0.7, 0.8, 0.8],
    }
)
FOUND = {
    "dataset": "idc",
    "patches": CASES * SIDE * SIDE,
    "cases": CASES,
    "positive": 200,
    "classes": ["benign", "IDC"],
    "patch_size": [PATCH, PATCH],
    "undersized": 3,
    "same_pixels_in_two_cases": 0,
    "bad": 1,
    "set_aside": {
        "not an image": {"count": 1, "bad": True, "files": [HOSTILE_FILE]},
        "second copy": {"count": 30, "bad": False, "folders": {"IDC_regular/8863": 30}},
    },
    "published": {"patches": 277_524, "cases": 279, "positive": 78_786},
}


def report_params(*names: str) -> Params:
    """Return parameters that list these architectures; the first has published figures."""
    listed = {"architectures": list(names), "recipes": dict.fromkeys(names, RECIPE), "evaluate": {"resamples": 200}}
    listed |= {"published": {names[0]: PUBLISHED}}
    return parse_params({"datasets": ["idc"], "idc": {"source": "synthetic"}, **listed})


def case_ids() -> list[str]:
    """List every case's id; two test cases have the hostile ones, which come first by name."""
    hostile = {CASES - 1: HOSTILE, CASES - 4: MATHEMATICAL}
    return [hostile.get(number, f"P{9000 + number}") for number in range(CASES)]


def make_reported(root: Path, strengths: Mapping[str, float]) -> Workspace:
    """Make a workspace in which networks of these strengths (0: chance, 3: good) have been evaluated on idc."""
    workspace, params = Workspace(root), report_params(*strengths)
    index = write_data(workspace)
    for number, (name, strength) in enumerate(strengths.items()):
        write_training(workspace, name, params)
        write_evaluated(workspace, name, _logits(index, strength, number), params)
    return workspace


def write_data(workspace: Workspace) -> pd.DataFrame:
    """Write square slides of noise into a store, and their split; return the store's index."""
    random = np.random.default_rng(0)
    places = np.arange(SIDE * SIDE)
    index = pd.DataFrame(
        {
            "case_id": np.repeat(case_ids(), len(places)),
            "x": np.tile(places % SIDE * PATCH, CASES),
            "y": np.tile(places // SIDE * PATCH, CASES),
            "width": PATCH,
            "height": PATCH,
            "label": np.tile((places % SIDE < 2).astype(int), CASES),
            "shard": 0,
            "row": range(CASES * len(places)),
        }
    )
    index["file"] = [f"{number}.png" for number in index["row"]]
    folder = workspace.store("idc")
    folder.mkdir(parents=True)
    np.save(folder / shard_name(0), random.integers(90, 250, (len(index), PATCH, PATCH, 3), np.uint8))
    index.to_parquet(folder / INDEX_FILE, index=False)
    write_json(folder / REPORT_FILE, FOUND)
    workspace.split("idc").parent.mkdir(parents=True)
    split = pd.DataFrame({"case_id": case_ids(), "split": [SPLITS[number % 3] for number in range(CASES)]})
    split.to_csv(workspace.split("idc"), index=False)
    return index


def _logits(index: pd.DataFrame, strength: float, seed: int) -> pd.DataFrame:
    split = np.tile(np.repeat(SPLITS, SIDE * SIDE), CASES // 3)
    table = index[["file", "case_id"]].assign(split=split, label=index["label"])
    noise = np.random.default_rng(seed).normal(size=len(index))
    table["logit"] = strength * (index["label"] - 0.5) + noise
    table["row"] = np.arange(len(index))
    return table[table["split"] != "train"].reset_index(drop=True)


def write_training(workspace: Workspace, name: str, params: Params) -> None:
    """Write the record of a training, and its history."""
    record = {
        "run_id": "1" * 32,
        "parameters": 579_516,
        "recipe_digest": recipe_digest(params, name),
        "split_digest": file_digest(workspace.split("idc")),
        "split_scheme": "grouped",
        "quick": None,
        "leaky": False,
        "weights": {"asked": "random"},
        "epochs": 2,
        "best_epoch": 1,
        "effort": {"seconds": 12.3, "patches_per_second": 456.7, "peak_memory_mb": 1234.5},
        "lineage": LINEAGE,
        "versions": {"python": "3.11.9", "histopipe": "0.1.0", "keras": "3.15.1", "tensorflow": "2.21.0"},
    }
    workspace.model("idc", name).mkdir(parents=True)
    write_json(workspace.model("idc", name) / "run.json", record)
    HISTORY.to_csv(workspace.model("idc", name) / "history.csv", index=False)


def write_evaluated(workspace: Workspace, name: str, logits: pd.DataFrame, params: Params) -> None:
    """Write what `evaluate` does, by its own functions, and a gallery."""
    from histopipe.core.files import read_json

    store = PatchStore.open(workspace.store("idc"))
    classes = {"positive_class": "IDC", "negative_class": "benign", "data_set": "idc", "resized": False}
    point = choose_operating_point(logits, params.evaluate.threshold) | classes
    table = predictions_table(logits, point)
    results = evaluate_predictions(table, point, read_json(workspace.model("idc", name) / "run.json"), params)
    folder = workspace.evaluation("idc", name)
    folder.mkdir(parents=True)
    parts = tables_by_part(table, store, workspace.split("idc"), params)
    draw_figures(*write_outputs(folder, table, parts, point, results, name), folder / "figures")
    draw_slides(table[table["split"] == "test"], store, point, params.evaluate, folder)
    Image.new("RGB", (600, 300), "#ddeeff").save(folder / "figures" / "gallery.png")
    write_json(folder / "metrics.json", results | {"run_id": "1" * 32})


def cells(page: str) -> list[list[str]]:
    """Return the text of every table row of a page, cell by cell, without spaces around."""
    from html.parser import HTMLParser

    class Rows(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[list[str]] = []
            self.inside = False

        def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, Any]]) -> None:
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.rows[-1].append("")
                self.inside = True

        def handle_endtag(self, tag: str) -> None:
            self.inside = self.inside and tag not in ("td", "th")

        def handle_data(self, data: str) -> None:
            if self.inside:
                self.rows[-1][-1] += data

    reader = Rows()
    reader.feed(page)
    return [[" ".join(cell.split()) for cell in row] for row in reader.rows]
