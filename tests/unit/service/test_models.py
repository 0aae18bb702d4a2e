"""Python's garbage collection in a service that holds a million objects."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from histopipe.core.workspace import Workspace
from histopipe.service.models import Model, ModelReloader, ModelRequest, freeze_loaded_objects


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


class Knot:
    """Only a collection frees it."""

    made_from = None  # as of a model whose data nothing tells

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.slow
def test_what_is_loaded_is_no_longer_gone_through() -> None:
    loaded = [Knot() for _ in range(1000)]
    freeze_loaded_objects()
    assert not any(isinstance(one, Knot) for one in gc.get_objects())
    assert gc.get_freeze_count() >= len(loaded)


@pytest.mark.slow
def test_a_replaced_model_is_given_back_once_the_last_job_with_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(request: ModelRequest, version: str) -> Model:
        parts: Any = Knot()
        return Model(request.model, version, "", parts, parts, "")

    request = ModelRequest("models:/histopipe-idc@champion", "idc", Workspace(tmp_path))
    monkeypatch.setattr("histopipe.service.models.load", load)
    monkeypatch.setattr("histopipe.service.models.aliased_version", lambda _: "2")
    reloader = ModelReloader(request, load(request, "1"), 0, lambda _: None)
    freeze_loaded_objects()
    job, network = reloader.model, weakref.ref(reloader.model.engine)
    for _ in range(2):
        reloader.check()
    assert reloader.model.version == "2" and job.version == "1" and network() is not None
    del job
    reloader.check()
    assert network() is None
