"""How messages quote others' words, and what they suggest for a name that there isn't."""

from __future__ import annotations

import pytest

from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.errors import did_you_mean, one_line


def test_a_reason_of_several_lines_becomes_one() -> None:
    assert one_line(ValueError("bad\n\tshape:  (3,\r\n4)")) == "bad shape: (3, 4)"
    assert one_line(ValueError("abcdef"), 3) == "abc"


def test_an_exception_without_words_is_named_by_its_class() -> None:
    assert one_line(TimeoutError()) == "TimeoutError"
    assert one_line(ValueError(" \n")) == "ValueError"
    assert one_line("") == ""


def test_the_nearest_name_is_suggested_and_all_where_none_is_near() -> None:
    known = ["cancernet", "resnet"]
    assert did_you_mean("cancernett", known) == "did you mean 'cancernet'?"
    assert did_you_mean("xyz", known) == "known: cancernet, resnet"
    assert did_you_mean("xyz", known, "give a path") == "give a path"


@pytest.mark.parametrize(("labels", "both"), [([0, 1], True), ([1, 1], False), ([0], False), ([], False)])
def test_labels_hold_both_classes_or_not(labels: list[int], both: bool) -> None:
    assert holds_both_classes(labels) is both
