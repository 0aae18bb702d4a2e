"""Which test cases count: those that neither model, nor the weights behind it, has seen under any id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.checkouts import NO_FLOORS
from histopipe.core.files import read_json, write_json
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE
from histopipe.evaluation.stage import evaluate
from histopipe.promotion.stage import promote
from histopipe.tracking.provenance import Provenance
from tests.builders.promotions import CASES, asked, content, kept
from tests.builders.registry import aliases, client, tags


def test_cases_that_the_champion_saw_do_not_count(workspace: Workspace) -> None:
    """Another seed divided the cases again: of 12 test cases the champion trained on 8."""
    path = workspace.model("idc", "good") / "run.json"
    record = read_json(path)
    test = [f"{number:03}" for number in range(2, CASES, 3)]
    write_json(path, record | {"train_cases": [*record["train_cases"], *test[:8]]})
    promote("idc", asked("good", promotion=NO_FLOORS), workspace)
    assert not promote("idc", asked("better"), workspace).promoted
    assert "neither model has seen: 4, wanted at least 6" in tags(workspace, "2")["reasons"]


def test_cases_that_the_champion_saw_under_other_ids_do_not_count(workspace: Workspace) -> None:
    """Trained elsewhere: of 12 test cases the champion knows two by its own ids, which the digests tell."""
    index = pd.read_parquet(workspace.store("idc") / INDEX_FILE)
    test = [f"{number:03}" for number in range(2, CASES, 3)]
    seen = sorted(index.loc[index["case_id"].isin(test[:2]), "digest"])
    path = workspace.model("idc", "good") / "run.json"
    labels = index.set_index("digest").label[seen]
    data = Provenance("idc", "archive", "elsewhere.zip", ("benign", "IDC"), capped=True, labels=labels)
    record = {"train_cases": ["ours1", "ours2"], "validation_cases": ["ours3"], "data": data.as_json()}
    write_json(path, read_json(path) | record)
    promote("idc", asked("good"), workspace)
    gates = {gate.name: gate for gate in promote("idc", asked("better"), workspace).gates}
    assert gates["cases"].measured == 10


def test_two_ids_of_one_slide_are_one_test_case(workspace: Workspace) -> None:
    path = workspace.store("idc") / INDEX_FILE
    index = pd.read_parquet(path)
    index.loc[index["case_id"] == "005", "digest"] = index.loc[index["case_id"] == "002", "digest"].to_numpy()
    index.to_parquet(path, index=False)
    for name in ("good", "better"):
        evaluate("idc", name, asked(name), workspace)
    assert read_json(workspace.evaluation("idc", "good") / "metrics.json")["cases"] == 11
    assert len(pd.read_csv(workspace.evaluation("idc", "good") / "cases.csv")) == 12
    for name in ("good", "better"):
        gates = {gate.name: gate for gate in promote("idc", asked(name), workspace).gates}
        assert gates["cases"].measured == 11


def test_cases_behind_a_models_weights_do_not_count(workspace: Workspace) -> None:
    """It was fine-tuned from a model that was trained on another split."""
    path = workspace.model("idc", "good") / "run.json"
    test = [f"{number:03}" for number in range(2, CASES, 3)]
    write_json(path, read_json(path) | {"seen_before": {"idc": test[:8], "malaria": test}})
    assert not promote("idc", asked("good"), workspace).promoted
    assert "seen: 4, wanted at least 6" in tags(workspace, "1")["reasons"]


def test_weights_that_nobody_knows_the_cases_of_are_refused_until_they_are_allowed(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = workspace.model("idc", "better") / "run.json"
    write_json(path, read_json(path) | {"leaky": "unknown", "unknown_before": True})
    refused = promote("idc", asked("better"), workspace)
    assert [gate.name for gate in refused.gates if not gate.passed] == ["leak"]
    held = tags(workspace, "1")
    assert "unknown (it is unknown which cases the weights it started from were trained on)" in held["reasons"]
    assert held["leaky"] == "unknown"
    assert "its numbers may measure memory" in kept(workspace, "1", "model_card.md", tmp_path).read_text()
    allowed = content("better")["promotion"] | {"unknown_weights": "allow"}
    assert promote("idc", asked("better", promotion=allowed), workspace).promoted


@pytest.mark.parametrize("mark", [{"leaky": True}, {"split_scheme": "random"}])
def test_a_leaky_model_is_never_promoted(workspace: Workspace, mark: dict[str, Any]) -> None:
    path = workspace.model("idc", "better") / "run.json"
    write_json(path, read_json(path) | mark)
    assert not promote("idc", asked("better"), workspace, again=True).promoted
    assert "cases shared between splits: yes" in tags(workspace, "1")["reasons"]
    assert aliases(workspace) == {"challenger": "1"}


def test_a_run_that_is_tagged_leaky_is_never_promoted(workspace: Workspace) -> None:
    run_id = read_json(workspace.evaluation("idc", "better") / "metrics.json")["run_id"]
    client(workspace).set_tag(run_id, "leaky", "true")
    assert not promote("idc", asked("better"), workspace).promoted
