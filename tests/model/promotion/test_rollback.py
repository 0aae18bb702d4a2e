"""Rollbacks: back to the champion before, once, and until a promotion is asked for again."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.checkouts import NO_FLOORS
from histopipe.cli import main
from histopipe.core.errors import PromotionError
from histopipe.core.workspace import Workspace
from histopipe.promotion.stage import promote, rollback
from tests.builders.promotions import asked
from tests.builders.registry import aliases, tags


def test_a_rollback_returns_and_stays_until_it_is_asked_otherwise(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    promote("idc", asked("better"), workspace)
    assert rollback("idc", workspace) == ("2", "1")
    assert aliases(workspace)["champion"] == "1"
    assert not promote("idc", asked("better"), workspace).promoted
    assert "rolled back" in tags(workspace, "2")["reasons"]
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}
    assert promote("idc", asked("better"), workspace, again=True).promoted
    assert aliases(workspace) == {"champion": "2"}
    assert rollback("idc", workspace) == ("2", "1")
    with pytest.raises(PromotionError, match="nothing to go back to"):
        rollback("idc", workspace)
    assert aliases(workspace)["champion"] == "1"


def test_a_rollback_does_not_return_to_what_was_rolled_back(workspace: Workspace) -> None:
    """The first model was champion before and after the second: going back twice must not go round in a circle."""
    lenient = {"promotion": NO_FLOORS | {"margin": 0.9}}
    promote("idc", asked("good", **lenient), workspace)
    promote("idc", asked("better", **lenient), workspace)
    promote("idc", asked("good", **lenient), workspace)
    assert aliases(workspace)["champion"] == "1"
    assert rollback("idc", workspace) == ("1", "2")
    with pytest.raises(PromotionError, match="nothing to go back to"):
        rollback("idc", workspace)


def test_with_nothing_to_go_back_to_the_command_says_so_in_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    for said in ("has no champion to roll back", "nothing to go back to"):
        done = CliRunner().invoke(main, ["rollback", "idc"])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr
        assert CliRunner().invoke(main, ["promote", "idc"]).exit_code == 0
