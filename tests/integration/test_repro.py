"""`dvc repro` from nothing, on the embedded defaults."""

from __future__ import annotations

import json
from collections.abc import Callable

import mlflow
import numpy as np
import pandas as pd

from benchmarks.checkouts import NO_FLOORS
from histopipe.data.store import PatchStore
from tests.builders.checkouts import Checkout, stages_run
from tests.builders.registry import finished_runs
from tests.integration.loaded_code import needless_code, unnamed_code

Make = Callable[..., Checkout]
LENIENT = NO_FLOORS  # two epochs on three test cases


def test_from_nothing_to_a_compared_and_logged_model(checkout: Make) -> None:
    project = checkout(promotion=LENIENT)
    other = checkout(promotion=LENIENT)
    first = project.dvc("repro")
    ran = stages_run(first.stdout)
    assert ran.index("weights@cancernet") < ran.index("train@idc-cancernet")
    assert [stage for stage in ran if stage != "weights@cancernet"] == [
        "locate@idc", "fetch@idc", "ingest@idc", "split@idc",
        "train@idc-cancernet", "evaluate@idc-cancernet", "compare@idc", "promote@idc",
    ]  # fmt: skip
    assert unnamed_code(project.root) == {}
    assert needless_code(project.root) == {}
    check_outputs(project)
    check_run(project)
    check_champion(project)
    check_dvc_views(project)
    check_second_clone(project, other)
    again = project.dvc("repro")
    assert stages_run(again.stdout) == []
    located = project.dvc("repro", "--force", "--single-item", "locate")
    assert stages_run(located.stdout) == ["locate@idc"]
    assert stages_run(project.dvc("repro").stdout) == []
    check_staleness(project)


def check_outputs(project: Checkout) -> None:
    metrics = json.loads((project.root / "evaluations/idc/cancernet/metrics.json").read_text())
    assert {"roc_auc", "sensitivity", "specificity", "balanced_accuracy", "brier"} <= set(metrics["test"])
    for values in metrics["test"].values():
        assert values["low"] <= values["value"] <= values["high"]
    predictions = pd.read_parquet(project.root / "evaluations/idc/cancernet/predictions.parquet")
    assert list(predictions.columns) == ["file", "case_id", "split", "label", "probability", "decision"]
    tested = predictions[predictions["split"] == "test"]
    assert metrics["patches"] == len(tested)
    assert metrics["cases"] == tested["case_id"].nunique()
    assert (predictions["decision"] == (predictions["probability"] >= metrics["threshold"])).all()
    assert "cancernet" in (project.root / "reports/idc/comparison.md").read_text()
    page = (project.root / "reports/idc/index.html").read_text()
    lineage = json.loads((project.root / "models/idc/cancernet/run.json").read_text())["lineage"]
    assert all(f"<code>{lineage[name]}</code>" in page for name in ("git_commit", "dvc_store", "dvc_split"))
    assert "not recorded" not in page


def check_run(project: Checkout) -> None:
    (run,) = finished_runs(project)
    record = json.loads((project.root / "models/idc/cancernet/run.json").read_text())
    assert run.info.run_id == record["run_id"]
    assert {"test/roc_auc", "validation/roc_auc", "train/loss", "learning_rate"} <= set(run.data.metrics)
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert {name: run.data.metrics[f"train/{name}"] for name in record["effort"]} == record["effort"]
    assert {"git_commit", "dvc_store", "dvc_split"} <= set(run.data.tags)
    store = PatchStore.open(project.root / "data/store/idc")
    predictions = pd.read_parquet(project.root / "evaluations/idc/cancernet/predictions.parquet")
    rows = np.flatnonzero(store.index["file"].isin(predictions["file"][:20]))
    expected = predictions.set_index("file")["probability"][store.index["file"].iloc[rows]]
    served = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model").predict(store.gather(rows))
    np.testing.assert_allclose(served["probability"], expected, atol=1e-5)


def check_champion(project: Checkout) -> None:
    (run,) = finished_runs(project)
    client = mlflow.MlflowClient()
    champion = client.get_model_version_by_alias("histopipe-idc", "champion")
    assert (champion.version, champion.run_id) == (1, run.info.run_id)
    assert "Research use only" in champion.description
    assert run.data.tags["dvc_store"] in champion.description
    report = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "report")}
    assert report == {"report/index.html", "report/comparison.png", "report/pairs.png"}


def check_dvc_views(project: Checkout) -> None:
    shown = json.loads(project.dvc("metrics", "show", "--json").stdout)
    assert "evaluations/idc/cancernet/metrics.json" in str(shown)
    project.dvc("plots", "show", "--out", "plots")
    page = (project.root / "plots/index.html").read_text()
    for axis in ("tpr", "recall", "observed", "actual", "validation/roc_auc"):
        assert f'"title": "{axis}"' in page
    assert "evaluations_idc_cancernet_figures_roc_png" in page


def check_staleness(project: Checkout) -> None:
    project.change(evaluate={"threshold": "f1"})
    assert stages_run(project.dvc("repro").stdout) == ["evaluate@idc-cancernet", "compare@idc", "promote@idc"]
    assert len(finished_runs(project)) == 1  # the evaluation went on in the training's run
    project.change(train={"parallel": 2})
    assert stages_run(project.dvc("repro").stdout) == []
    with (project.root / "histopipe/networks/architectures/densenet201.py").open("a") as code:
        code.write("# another network's code\n")
    assert stages_run(project.dvc("repro").stdout) == ["weights@cancernet"]
    with (project.root / "histopipe/networks/architectures/blocks.py").open("a") as code:
        code.write("# its own\n")
    project.dvc("repro", "--single-item", "weights@cancernet")
    assert "train@idc-cancernet" in project.dvc("status").stdout


def check_second_clone(project: Checkout, other: Checkout) -> None:
    """What one checkout pushed, another one takes without training."""
    remote = str(project.root.parent / "remote")
    for each in (project, other):
        each.dvc("remote", "add", "--local", "--default", "store", remote)
    project.dvc("push", "--run-cache")
    other.dvc("pull", "--run-cache", "--allow-missing", check=False)
    done = other.dvc("repro", "--pull")
    assert "epoch 1/" not in done.stdout + done.stderr
    first, second = (json.loads((each.root / "models/idc/cancernet/run.json").read_text()) for each in (project, other))
    assert first == second
