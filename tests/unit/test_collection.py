"""Python's garbage collection in a server that holds a million objects."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from histopipe.core.workspace import Workspace
from histopipe.service.models import Asked, Keeper, Model, spare_from_collection


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


class Knot:
    """Only a collection frees it."""

    made_from = None  # as of a model whose data nothing tells

    def __init__(self) -> None:
        self.itself = self


def test_what_is_loaded_is_no_longer_gone_through() -> None:
    loaded = [Knot() for _ in range(1000)]
    spare_from_collection()
    assert not any(isinstance(one, Knot) for one in gc.get_objects())
    assert gc.get_freeze_count() >= len(loaded)


def test_a_replaced_model_is_given_back_once_the_last_job_with_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(asked: Asked, version: str) -> Model:
        parts: Any = Knot()
        return Model(asked.model, version, "", parts, parts, "")

    asked = Asked("models:/histopipe-idc@champion", "idc", Workspace(tmp_path))
    monkeypatch.setattr("histopipe.service.models.load", load)
    monkeypatch.setattr("histopipe.service.models.aliased", lambda _: "2")
    keeper = Keeper(asked, load(asked, "1"), 0, lambda _: None)
    spare_from_collection()
    job, network = keeper.model, weakref.ref(keeper.model.engine)
    for _ in range(2):
        keeper.look()
    assert keeper.model.version == "2" and job.version == "1" and network() is not None
    del job
    keeper.look()
    assert network() is None
