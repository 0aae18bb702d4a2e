"""A damaged checkpoint is told of in one line, and its training starts over."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from histopipe.core.errors import TrainingError
from histopipe.training.checkpoint import TRAINING_CODE, forget_finished, load_progress
from histopipe.training.pooled_features import PooledFeatures
from tests.builders.paths import ROOT

PROGRESS: dict[str, Any] = {"key": "k", "run_id": "r", "history": [{"epoch": 1, "train/loss": 0.5}], "notes": {}}


def write(folder: Path, progress: object = PROGRESS) -> Path:
    path = folder / "checkpoint.npz"
    text = progress if isinstance(progress, bytes) else json.dumps(progress).encode()
    arrays = {f"variable_{number:05d}": np.arange(500.0) + number for number in range(3)}
    np.savez(path, allow_pickle=False, progress=np.frombuffer(text, np.uint8), **arrays)
    return path


def flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 0x55
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "no archive": lambda path: path.write_bytes(b"\x93NUMPY" + bytes(100)),
    "a directory": lambda path: (path.unlink(), path.mkdir(), (path / "mine.txt").write_text("")),
    "no JSON": lambda path: write(path.parent, b"{"),
    "other JSON": lambda path: write(path.parent, [1]),
    "a number for a history": lambda path: write(path.parent, PROGRESS | {"history": 5}),
    "words for numbers": lambda path: write(path.parent, PROGRESS | {"history": [{"train/loss": "low"}]}),
    "no history": lambda path: write(path.parent, {"key": "k"}),
    **{f"a byte at {share}": lambda path, share=share: flip(path, share) for share in (0.2, 0.5, 0.8)},  # type: ignore[misc]
}


def test_a_whole_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    write(tmp_path)
    assert load_progress(tmp_path, "k").history == PROGRESS["history"]
    assert load_progress(tmp_path, "another").history == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_training_starts_over(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    DAMAGES[damage](path)
    progress = load_progress(tmp_path, "k")
    assert (progress.history, progress.run_id) == ([], None)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(path) in line
    assert "the training starts over" in line
    assert "\n" not in line
    assert not path.is_dir()  # the next epoch's takes its place


def test_any_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    whole = write(tmp_path).read_bytes()
    with np.load(tmp_path / "checkpoint.npz") as arrays:
        expected = {name: arrays[name].tobytes() for name in arrays.files}
    for place in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "checkpoint.npz").write_bytes(damaged)
        if load_progress(tmp_path, "k").history:
            with np.load(tmp_path / "checkpoint.npz") as arrays:
                assert {name: arrays[name].tobytes() for name in arrays.files} == expected


def test_a_checkpoint_that_may_not_be_read_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path)
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(TrainingError, match="can't be read: allow yourself to read it, or move it away"):
        load_progress(tmp_path, "k")
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"md6": 1}', b"\xff\xfe"])
def test_a_damaged_mark_of_the_end_does_not_stop_a_training(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path)
    (tmp_path / "finished.json").write_bytes(content)
    forget_finished(tmp_path, "0123")
    assert "finished.json is damaged" in caplog.text
    assert not (tmp_path / "finished.json").exists()
    assert load_progress(tmp_path, "k").history


@pytest.mark.parametrize("damage", ["truncated", "a byte at 0.5"])
def test_a_damaged_chunk_of_features_is_computed_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    features = PooledFeatures(tmp_path, ("first", "second"))
    assert not features._is_complete(0, 5)
    assert not caplog.records
    features._write(0, [np.zeros((5, 400), np.float32), np.ones((5, 400), np.float32)])
    assert features._is_complete(0, 5)
    assert not features._is_complete(0, 6)
    DAMAGES[damage](features._chunk(0))
    assert not features._is_complete(0, 5)
    assert "computed again" in caplog.text


@pytest.mark.parametrize(("stage", "own"), [("train", set()), ("train_variant", {"train_stage.py", "workspace.py"})])
def test_a_checkpoint_is_of_the_code_that_dvc_names_for_a_training(stage: str, own: set[str]) -> None:
    """A killed training must not go on, nor a search, across a change that makes the training stale."""
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    named = {name.removeprefix("histopipe/") for name in deps if name.startswith("histopipe/")}
    assert named - set(TRAINING_CODE) == {f"experiments/studies/{name}" for name in own}
    assert set(TRAINING_CODE) <= named
