"""The effect of arithmetic in bfloat16: a trained network's test cases, predicted in both precisions.

python -m benchmarks.precision --workspace DIR idc histonet     # where `dvc repro` has trained it
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.measuring import report


@click.command()
@click.argument("dataset")
@click.argument("recipe")
@click.option("--workspace", "root", type=click.Path(path_type=Path, exists=True), default=Path(), show_default=True)
def main(dataset: str, recipe: str, root: Path) -> None:
    """Compare; the last line is JSON and holds the change of ROC AUC, in bfloat16 less in float32."""
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    from histopipe.core.workspace import Workspace
    from histopipe.data.store import PatchStore
    from histopipe.networks.logits import load_network
    from histopipe.networks.openvino import CompiledNetwork, Precision
    from histopipe.networks.prediction import logit_network, row_logits

    workspace = Workspace(root)
    store = PatchStore.open(workspace.store(dataset))
    split = pd.read_parquet(workspace.root / "evaluations" / dataset / recipe / "predictions.parquet")
    cases = set(split.loc[split["split"] == "test", "case_id"])
    rows = np.flatnonzero(store.index["case_id"].isin(cases))
    labels = store.index["label"].to_numpy()[rows]
    network = logit_network(load_network(workspace.model(dataset, recipe) / "model.keras"))
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    compiled = {name: CompiledNetwork(network, store.patch_size, name) for name in precisions}
    logits = {name: row_logits(runtime, store, rows, name) for name, runtime in compiled.items()}
    auc = {name: float(roc_auc_score(labels, values)) for name, values in logits.items()}
    probabilities = [1 / (1 + np.exp(-values)) for values in logits.values()]
    report(
        "precision",
        ratio="a comparison of results, not of speed",
        change_of_auc=round(auc["bfloat16"] - auc["float32"], 5),
        auc={name: round(value, 5) for name, value in auc.items()},
        probabilities_apart_at_most=round(float(np.abs(np.subtract(*probabilities)).max()), 4),
        patches=len(rows),
        cases=len(cases),
    )


if __name__ == "__main__":
    main()
