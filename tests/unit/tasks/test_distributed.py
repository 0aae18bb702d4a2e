"""Parts on Dask workers: which worker a part goes to, and what becomes of one that never comes back."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from prefect_dask.task_runners import PrefectDaskFuture

from histopipe.core.errors import UnreachableError
from tasks.distributed import parts
from tasks.distributed.parts import PartFailed
from tasks.distributed.remote import fetch_folder, share_folder
from tasks.distributed.workers import listening, own_address
from tasks.processes import StageFailed


@pytest.fixture
def client() -> Iterator[Any]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def future(wrapped: Any) -> Any:
    return PrefectDaskFuture(task_run_id=uuid.uuid4(), wrapped_future=wrapped)


def test_a_part_goes_to_none_of_the_workers_that_failed_at_it(client: Any) -> None:
    first, second = listening(client)
    for avoided in (first, second):
        with parts._only_on([worker for worker in listening(client) if worker != avoided]):
            runs = [client.submit(own_address, pure=False) for _ in range(6)]
        assert {run.result(timeout=60) for run in runs} == {first, second} - {avoided}


def test_where_every_worker_failed_any_may_try_again(client: Any) -> None:
    with parts._only_on([]):
        assert client.submit(own_address, pure=False).result(timeout=60) in listening(client)


def test_parts_given_to_workers_that_went_away_are_given_up(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LOOK_SECONDS", 0.3)
    client.cluster.scale(0)
    while listening(client):
        client.sync(client.scheduler.identity)
    given = future(client.submit(own_address, pure=False))
    outcome = parts._outcome(given, [], client)
    assert isinstance(outcome, StageFailed) and "no workers left" in str(outcome)
    assert given.wrapped_future.cancelled()


def test_a_part_for_a_worker_that_went_away_is_given_up_though_another_listens(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LOOK_SECONDS", 0.3)
    gone = "tcp://127.0.0.1:9"
    with parts._only_on([gone]):
        given = future(client.submit(own_address, pure=False))
    outcome = parts._outcome(given, [gone], client)
    assert isinstance(outcome, StageFailed) and "no workers left" in str(outcome)
    assert listening(client) and given.wrapped_future.cancelled()


@pytest.mark.slow
def test_a_part_waits_for_a_busy_worker_no_longer_than_a_stage_may_take(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(parts, "seconds_for", lambda *_: 1.0)
    busy, _ = listening(client)
    with parts._only_on([busy]):
        client.submit(time.sleep, 5, pure=False)
        given = future(client.submit(own_address, pure=False))
    outcome = parts._outcome(given, [busy], client)
    assert isinstance(outcome, StageFailed) and given.wrapped_future.cancelled()


def fail() -> None:
    raise PartFailed("no room", own_address())


def test_a_failure_tells_the_flow_where_it_was(client: Any, tmp_path: Path) -> None:
    outcome = parts._outcome(future(client.submit(fail, pure=False)), [], client)
    assert isinstance(outcome, PartFailed) and str(outcome) == "no room"
    assert parts._failed_at(outcome) <= set(listening(client)) and parts._failed_at(outcome)
    assert not parts._fetch_part(tmp_path / "1-2", outcome)
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_its_worker_on_the_way() -> None:
    arrived = pickle.loads(pickle.dumps(PartFailed("no room", "tcp://10.0.0.1:99")))
    assert (str(arrived), arrived.worker) == ("no room", "tcp://10.0.0.1:99")


@pytest.fixture
def clones(tmp_path: Path) -> list[Path]:
    """Two clones with a remote between them."""
    found = [tmp_path / "first", tmp_path / "second"]
    for root in found:
        root.mkdir()
        (root / "params.yaml").touch()
        (root / ".dvcignore").write_text(".checkpoints\n")
        for command in (["init", "--no-scm"], ["remote", "add", "--default", "shared", str(tmp_path / "remote")]):
            subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, check=True, capture_output=True)
    return found


@pytest.mark.slow
def test_a_folder_of_no_stage_comes_to_another_clone_whole_or_not_at_all(
    clones: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = (root / ".checkpoints/ingest/idc/key/1-2" for root in clones)
    first.mkdir(parents=True)
    content = {"patches-00000.npy": os.urandom(3000), "patches-00000.json": b"[]"}
    for name, data in content.items():
        (first / name).write_bytes(data)
    monkeypatch.chdir(clones[0])
    digest = share_folder(first)
    monkeypatch.chdir(clones[1])
    fetch_folder(digest, second)
    assert {path.name: path.read_bytes() for path in second.iterdir()} == content
    with pytest.raises(UnreachableError, match="DVC's remote can't be read"):
        fetch_folder("0" * 32 + ".dir", second.with_name("2-2"))
    assert [path.name for path in second.parent.iterdir()] == ["1-2"]
