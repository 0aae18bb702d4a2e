"""Looks at the test cases: counted once each, by every machine, and never lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from histopipe.core.workspace import Workspace
from histopipe.evaluation.stage import evaluate
from histopipe.promotion.stage import promote
from histopipe.tracking.ledger import count_looks, number_among_kind, read_looks, record_look
from histopipe.tracking.registry import Registry
from tests.builders.promotions import asked, kept
from tests.builders.registry import NAME, client, tags


def test_looks_at_the_test_cases_are_counted_once_each_and_outlive_their_versions(
    workspace: Workspace, tmp_path: Path
) -> None:
    for name in ("good", "worse", "worse", "better"):
        promote("idc", asked(name), workspace)
    assert [tags(workspace, number)["looks.judged"] for number in "123"] == ["1", "2", "3"]
    assert [tags(workspace, number)["looks.compared"] for number in "123"] == ["0", "1", "2"]
    assert tags(workspace, "3")["looks.trainings"] == "3"
    card = kept(workspace, "3", "model_card.md", tmp_path).read_text()
    assert "This was look 3 at these 12 test cases (promotions judged on them, this one included; 3 trainings" in card
    assert "biased upwards" in card
    client(workspace).delete_model_version(NAME, "2")
    changed = asked("better", evaluate={"resamples": 200, "threshold": "f1"})
    evaluate("idc", "better", changed, workspace)
    promote("idc", changed, workspace)
    assert tags(workspace, "4")["looks.judged"] == "4"


def test_cases_that_came_later_have_fewer_looks_behind_them(workspace: Workspace) -> None:
    registry = Registry(NAME, client(workspace))
    old, new = [f"old{number}" for number in range(700)], ["new1", "new2"]
    record_look(registry, "first", [], old, ["run1"])
    record_look(registry, "second", ["1"], old, ["run1", "run2"])
    look, earlier = record_look(registry, "third", ["1"], old[:10] + new, ["run3"])
    counts = count_looks(look, earlier)
    assert (counts.cases, counts.judged, counts.compared, counts.trainings, counts.fresh) == (12, 3, 2, 3, 2)
    assert number_among_kind(look, earlier) == 2
    fresh, before = record_look(registry, "third", ["1"], new, ["run3"])
    assert number_among_kind(fresh, before) == 1
    again, _ = record_look(registry, "second", ["1"], old, ["run1", "run2"])
    assert again.at < look.at, "the same model against the same champion is the same look"


def test_a_machine_whose_clock_is_behind_counts_the_looks_of_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(minutes=30)

    registry = Registry(NAME, client(workspace))
    for number in range(3):
        record_look(registry, f"model{number}", ["1"], ["a", "b"], [])
    monkeypatch.setattr("histopipe.tracking.ledger.datetime", Late)
    late, earlier = record_look(registry, "late", ["1"], ["a"], [])
    assert number_among_kind(late, earlier) == 4
    monkeypatch.undo()
    last, earlier = record_look(registry, "last", ["1"], ["a"], [])
    assert number_among_kind(last, earlier) == 5


def test_several_writers_lose_no_look(workspace: Workspace) -> None:
    registries = [Registry(NAME, client(workspace)) for _ in range(6)]
    registries[0].require_model()
    with ThreadPoolExecutor(6) as pool:
        written = [
            pool.submit(record_look, each, f"model{number}", ["1"], ["a", "b"], [])
            for number, each in enumerate(registries)
        ]
    for look in written:
        look.result()
    looks = read_looks(registries[0].model_tags())
    assert {look.model for look in looks} == {f"model{number}" for number in range(6)}
    last, earlier = record_look(registries[0], "last", ["1"], ["b"], [])
    assert number_among_kind(last, earlier) == 7
