"""Promotion killed between any two steps: the old champion stays, and the same command carries on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from benchmarks.checkouts import NO_FLOORS
from histopipe.core.files import read_json, write_json
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.evaluation.stage import evaluate
from histopipe.promotion.stage import promote, rollback
from histopipe.tracking.provenance import Provenance
from tests.builders.promotions import Killed, asked, registered, versions
from tests.builders.registry import aliases, tags


def test_a_kill_between_any_two_steps_leaves_the_old_champion_and_the_same_command_carries_on(
    workspace: Workspace, killer: Callable[[int | None], list[str]]
) -> None:
    promote("idc", asked("good"), workspace)
    steps = 0
    while True:
        written = killer(steps)
        try:
            promote("idc", asked("better"), workspace)
            break
        except Killed:
            assert "set_registered_model_alias" not in written
            killer(None)
            assert aliases(workspace) == {"champion": "1"}
            assert versions(workspace) <= 2
            steps += 1 if steps < 8 else 7  # all of the first way, some of the way over a version that is there already
    assert steps > 20
    assert aliases(workspace) == {"champion": "2"}
    assert (versions(workspace), tags(workspace, "2")["previous_champion"]) == (2, "1")


def test_a_kill_between_any_two_steps_of_a_rollback_leaves_the_champion(
    workspace: Workspace, killer: Callable[[int | None], list[str]]
) -> None:
    promote("idc", asked("good"), workspace)
    promote("idc", asked("better"), workspace)
    for steps in range(5):
        killer(steps)
        with pytest.raises(Killed):
            rollback("idc", workspace)
        killer(None)
        assert aliases(workspace)["champion"] == "2"
        assert not promote("idc", asked("better"), workspace).judged
    assert rollback("idc", workspace) == ("2", "1")
    assert not promote("idc", asked("better"), workspace).promoted


def test_a_killed_rollback_does_not_hide_the_champion_from_the_next_one(
    workspace: Workspace, killer: Callable[[int | None], list[str]]
) -> None:
    promote("idc", asked("worse", promotion=NO_FLOORS), workspace)
    promote("idc", asked("good"), workspace)
    killer(2)
    with pytest.raises(Killed):
        rollback("idc", workspace)
    killer(None)
    assert "rolled_back" in tags(workspace, "2")
    assert promote("idc", asked("better"), workspace).promoted
    assert rollback("idc", workspace) == ("3", "2")


@pytest.fixture
def anchorless(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ends the work before the anchor is written."""
    original = MlflowClient.set_registered_model_tag

    def call(self: MlflowClient, name: str, key: str, value: Any) -> None:
        if key == "anchor":
            raise Killed
        original(self, name, key, value)

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", call)
    return lambda: monkeypatch.setattr(MlflowClient, "set_registered_model_tag", original)


def make_anchor_of_other_data(workspace: Workspace) -> Params:
    """A champion and anchor, version 1, and a candidate that can't be compared with them."""
    promote("idc", asked("good"), workspace)
    path = workspace.model("idc", "better") / "run.json"
    data = Provenance("idc", "archive", "elsewhere.zip", ("benign", "DCIS")).as_json()
    write_json(path, read_json(path) | {"data": data})
    return asked("better")


def test_a_kill_between_the_champion_and_its_anchor_is_mended_by_the_same_command(
    workspace: Workspace, request: pytest.FixtureRequest
) -> None:
    """The champion of other data takes the anchor with it."""
    params = make_anchor_of_other_data(workspace)
    revive = request.getfixturevalue("anchorless")
    with pytest.raises(Killed):
        promote("idc", params, workspace, replaceable="1")
    revive()
    assert (aliases(workspace)["champion"], registered(workspace)["anchor"]) == ("2", "1")
    assert "version 2 is the anchor" in str(promote("idc", params, workspace))
    assert registered(workspace)["anchor"] == "2"
    assert "anchor" not in str(promote("idc", params, workspace)), "it is told once"


@pytest.mark.parametrize("again", ["promote", "rollback"])
def test_a_rollback_of_the_anchor_that_is_killed_leaves_none_that_is_not_champion(
    workspace: Workspace, request: pytest.FixtureRequest, again: str
) -> None:
    promote("idc", asked("worse", promotion=NO_FLOORS), workspace)
    promote("idc", asked("good"), workspace)
    assert promote("idc", asked("better"), workspace).promoted
    promote("idc", asked("better"), workspace, move_anchor=True)
    revive = request.getfixturevalue("anchorless")
    with pytest.raises(Killed):
        rollback("idc", workspace)
    revive()
    assert (aliases(workspace)["champion"], registered(workspace)["anchor"]) == ("2", "3")
    if again == "promote":
        promote("idc", asked("good"), workspace)
        assert registered(workspace)["anchor"] == "2"
    else:
        assert rollback("idc", workspace) == ("2", "1")
        assert registered(workspace)["anchor"] == "1"


@pytest.mark.parametrize(("torn", "rule"), [("run.json", "f1"), ("test_predictions.parquet", "sensitivity>=0.8")])
def test_a_kill_within_a_copy_leaves_the_champions_own_record_whole(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, torn: str, rule: str
) -> None:
    """The candidate is the champion's run under another threshold, one that no other test has already logged."""
    promote("idc", asked("good"), workspace)
    changed = asked("good", evaluate={"resamples": 200, "threshold": rule})
    evaluate("idc", "good", changed, workspace)
    real = MlflowClient.log_artifact

    def half(registry: MlflowClient, run_id: str, path: str, folder: str) -> None:
        if Path(path).name == torn:
            Path(path).write_bytes(Path(path).read_bytes()[:40])
        real(registry, run_id, path, folder)
        if Path(path).name == torn:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MlflowClient, "log_artifact", half)
        promote("idc", changed, workspace)
    assert not promote("idc", asked("worse"), workspace).promoted, "was judged against the champion"
    assert promote("idc", changed, workspace).promoted
    assert promote("idc", asked("better"), workspace).promoted, "and so is what carried on"
