"""The anchor: the first champion, which no chain of promotions may fall too far below, until a command moves it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.checkouts import NO_FLOORS
from histopipe.cli import main
from histopipe.core.files import read_json, write_json
from histopipe.core.workspace import Workspace
from histopipe.evaluation.stage import evaluate
from histopipe.promotion.stage import promote, rollback
from histopipe.promotion.summary import promotion_summary
from tests.builders.promotions import CASES, asked, registered
from tests.builders.registry import NAME, aliases, client, tags


def test_the_anchor_is_the_first_champion_until_a_command_moves_it(workspace: Workspace) -> None:
    first = promote("idc", asked("good"), workspace)
    assert registered(workspace)["anchor"] == "1"
    assert "version 1 is the anchor from now on" in str(first)
    assert "anchor" not in str(promote("idc", asked("good"), workspace))
    assert promote("idc", asked("better"), workspace).promoted
    assert registered(workspace)["anchor"] == "1"
    assert tags(workspace, "2")["gate.anchor"] == "passed"
    assert "The anchor is version 1" in promotion_summary("idc", workspace)
    moved = promote("idc", asked("better"), workspace, move_anchor=True)
    assert "version 2 is the anchor from now on, instead of version 1" in str(moved)
    assert registered(workspace)["anchor"] == "2"


def test_a_model_as_good_as_the_champion_is_refused_where_it_lies_too_far_below_the_anchor(
    workspace: Workspace,
) -> None:
    """Stand at the end of a chain of champions that each lost what a single promotion may lose."""
    promote("idc", asked("better"), workspace)
    assert promote("idc", asked("good", promotion=NO_FLOORS | {"margin": 0.9}), workspace).promoted
    changed = asked("good", evaluate={"resamples": 200, "threshold": "sensitivity>=0.7"})
    evaluate("idc", "good", changed, workspace)
    refused = promote("idc", changed, workspace)
    assert [gate.name for gate in refused.gates if not gate.passed] == ["anchor"]
    assert "ROC AUC less the anchor's, lower end of its interval: -0." in str(refused)
    assert aliases(workspace) == {"champion": "2", "challenger": "3"}
    assert promote("idc", changed, workspace, move_anchor=True).promoted


def test_a_champion_of_before_there_were_anchors_is_its_own_and_says_so_once(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    for key in registered(workspace):
        client(workspace).delete_registered_model_tag(NAME, key)
    for number in range(2):
        said = "version 1 was champion without an anchor, and is the anchor from now on"
        assert (said in str(promote("idc", asked("good"), workspace))) is (number == 0)
    assert registered(workspace)["anchor"] == "1"
    promote("idc", asked("better"), workspace)
    assert tags(workspace, "2")["looks.judged"] == "2", "a version that was judged before the ledger counts"


@pytest.mark.parametrize("lost", ["deleted", "seen"])
def test_an_anchor_that_nothing_can_be_compared_with_refuses_and_names_the_remedy(
    workspace: Workspace, lost: str
) -> None:
    """Version 1 was trained on all test cases, as before they were dealt anew; it is refused, then made the anchor."""
    path = workspace.model("idc", "worse") / "run.json"
    record, test = read_json(path), [f"{number:03}" for number in range(2, CASES, 3)]
    write_json(path, record | {"train_cases": [*record["train_cases"], *test]})
    assert not promote("idc", asked("worse"), workspace).promoted
    client(workspace).set_registered_model_tag(NAME, "anchor", "1" if lost == "seen" else "7")
    refused = promote("idc", asked("good"), workspace)
    assert [gate.name for gate in refused.gates if not gate.passed] == ["anchor"]
    why = {"seen": "and this model have no test case in common", "deleted": "was deleted from the registry"}[lost]
    assert why in refused.gates[-1].reason
    assert "`histopipe promote idc --move-anchor`" in refused.gates[-1].reason
    assert promote("idc", asked("good"), workspace, move_anchor=True).promoted
    assert registered(workspace)["anchor"] == "2"


def test_a_rollback_leaves_the_anchor_unless_it_is_what_was_taken_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote("idc", asked("good"), workspace)
    promote("idc", asked("better"), workspace)
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(main, ["rollback", "idc"])
    assert "the anchor is version 1" in done.output
    assert promote("idc", asked("better"), workspace, again=True).promoted
    promote("idc", asked("better"), workspace, move_anchor=True)
    rollback("idc", workspace)
    assert registered(workspace)["anchor"] == "1"
