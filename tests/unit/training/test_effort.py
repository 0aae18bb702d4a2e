"""What a training took."""

from __future__ import annotations

import numpy as np
import pytest

from histopipe.training.effort import effort, peak_memory


def test_speed_is_that_of_all_epochs_together() -> None:
    """A slow first epoch counts by its time: 100 patches in 10 s, then 100 in 1 s."""
    history = [{"seconds": 10.0, "patches_per_second": 10.0}, {"seconds": 1.0, "patches_per_second": 100.0}]
    found = effort(history)
    assert found["seconds"] == 11.0
    assert found["patches_per_second"] == pytest.approx(200 / 11, abs=0.05)


def test_a_history_without_speed_has_none() -> None:
    assert effort([{"seconds": 3.0}])["patches_per_second"] is None


def test_peak_memory_grows_with_what_is_held_and_stays() -> None:
    before = peak_memory()
    held = np.ones(60_000_000, np.uint8)
    after = peak_memory()
    assert after >= held.nbytes
    del held
    assert peak_memory() == after >= before
