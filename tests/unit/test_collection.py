"""Python's garbage collection in a server that holds a million objects."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from histopipe.service.models import spare_from_collection


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


class Knot:
    """Only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_loaded_is_no_longer_gone_through() -> None:
    loaded = [Knot() for _ in range(1000)]
    spare_from_collection()
    assert not any(isinstance(one, Knot) for one in gc.get_objects())
    assert gc.get_freeze_count() >= len(loaded)


def test_what_was_replaced_is_given_back_the_next_time() -> None:
    old = Knot()
    gone = weakref.ref(old)
    spare_from_collection()
    del old
    gc.collect()
    assert gone() is not None
    spare_from_collection()
    assert gone() is None
