"""Which GPU a training sees: one each while there are enough, within what the surroundings allow."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from histopipe.core.params import parse_params
from tasks.parallel import VISIBLE, GpuPool, parallel_trainings, visible_gpus
from tests.builders.machines import Machine


class Rivals:
    """Trainings in threads, counted by GPU while they run."""

    def __init__(self, pool: GpuPool) -> None:
        self.pool = pool
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self._lock = threading.Lock()

    def train(self, _: int) -> None:
        with self.pool.lend("one") as environment:
            gpu = environment[VISIBLE]
            with self._lock:
                self.now[gpu] += 1
                self.used[gpu] += 1
                self.most[gpu] = max(self.most[gpu], self.now[gpu])
            time.sleep(0.02)
            with self._lock:
                self.now[gpu] -= 1


@pytest.mark.parametrize(("parallel", "expected"), [(1, {"0": 1}), (2, {"0": 1, "1": 1}), (4, {"0": 2, "1": 2})])
def test_trainings_side_by_side_share_out_two_gpus(machine: Machine, parallel: int, expected: dict[str, int]) -> None:
    machine(2)
    rivals = Rivals(GpuPool())
    with ThreadPoolExecutor(parallel) as threads:
        list(threads.map(rivals.train, range(40)))
    assert all(rivals.most[gpu] <= most for gpu, most in expected.items())
    assert set(rivals.used) == set(expected)
    assert sum(rivals.used.values()) == 40


def test_a_gpu_comes_back_from_a_training_that_failed(machine: Machine) -> None:
    machine(2)
    pool = GpuPool()
    for _ in range(3):
        with pytest.raises(RuntimeError), pool.lend("one") as environment:
            assert environment == {VISIBLE: "0"}
            raise RuntimeError
    with pool.lend("one") as first, pool.lend("one") as second, pool.lend("one") as third:
        assert [first[VISIBLE], second[VISIBLE], third[VISIBLE]] == ["0", "1", "0"]


def test_a_training_over_all_devices_sees_all(machine: Machine) -> None:
    machine(3)
    with GpuPool().lend("all") as environment:
        assert environment == {VISIBLE: "0,1,2"}


def test_without_gpus_nothing_is_set(machine: Machine) -> None:
    machine(0)
    for devices in ("one", "all"):
        with GpuPool().lend(devices) as environment:  # type: ignore[arg-type]
            assert environment == {}


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [("3,1", ["3", "1"]), ("GPU-8f, MIG-2a", ["GPU-8f", "MIG-2a"]), ("", []), ("-1", []), ("2,-1,3", ["2"])],
)
def test_the_surroundings_decide_what_there_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, allowed: str, expected: list[str]
) -> None:
    machine(4)
    monkeypatch.setenv(VISIBLE, allowed)
    assert visible_gpus() == expected


def test_one_training_per_gpu_unless_said_otherwise(machine: Machine, content: dict[str, Any]) -> None:
    machine(2)
    assert parallel_trainings(parse_params(content)) == 2
    content["train"]["devices"] = "all"
    assert parallel_trainings(parse_params(content)) == 1
    content["train"]["parallel"] = 3
    assert parallel_trainings(parse_params(content)) == 3
