"""Which commit a result is made from, and what is said where git can't tell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from histopipe.core.lineage import (
    _warn_once,
    checkout_name,
    git_commit,
    git_dirty,
    git_problem,
    is_own_checkout,
    lineage_tags,
)
from histopipe.core.workspace import Workspace

STRANGER = 54321


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", "-C", folder, *author, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed checkout, and a home without a configuration of git."""
    _warn_once.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    folder = tmp_path / "check out"
    folder.mkdir()
    (folder / "params.yaml").write_text("seed: 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "params.yaml")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_committed_checkout_has_its_commit(checkout: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert git_commit(checkout) == git(checkout, "rev-parse", "HEAD").strip()
    assert git_dirty(checkout) == "false"
    (checkout / "params.yaml").write_text("seed: 2\n")
    assert git_dirty(checkout) == "true"
    assert caplog.messages == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user_is_told_once_with_gits_own_remedy(
    checkout: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGUAGE", "de")
    commit = git_commit(checkout)
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    for _ in range(3):
        assert not {"git_commit", "git_dirty"} & set(lineage_tags(Workspace(checkout), "idc"))
    (line,) = caplog.messages
    _, remedy = git_problem(checkout) or ("", "")
    assert "another user" in line
    assert remedy in line
    (tmp := checkout.parent / "home").mkdir()
    subprocess.run(remedy.strip("`"), shell=True, check=True)
    assert (tmp / ".gitconfig").exists()
    assert git_commit(checkout) == commit


@pytest.mark.parametrize(
    ("undo", "said"), [("git", "it is no git repository"), ("path", "git isn't installed"), ("outer", "doesn't hold")]
)
def test_where_there_is_no_commit_it_is_said(
    checkout: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, undo: str, said: str
) -> None:
    folder = checkout
    if undo == "git":
        shutil.rmtree(checkout / ".git")
    elif undo == "path":
        monkeypatch.setenv("PATH", str(checkout))
    else:  # an archive that was unpacked within another repository, whose commit says nothing of it
        folder = checkout / "unpacked"
        folder.mkdir()
        (folder / "params.yaml").write_text("seed: 3\n")
    assert git_commit(folder) is None
    assert git_dirty(folder) is None
    (line,) = caplog.messages
    assert said in line


def test_what_an_experiment_made_is_the_checkouts_own_and_a_neighbours_is_not() -> None:
    checkout = Workspace(Path("/srv/a"))
    experiment = Workspace(checkout.root / ".dvc" / "tmp" / "exps" / "temp")
    names = [checkout_name(checkout), checkout_name(experiment)]
    assert len(set(names)) == 2, "experiments side by side must not take up each other's runs"
    assert all(is_own_checkout(name, place) for name in names for place in (checkout, experiment))
    for stranger in (checkout_name(Workspace(Path("/srv/ab"))), names[0].replace(":", "-b:"), ""):
        assert not is_own_checkout(stranger, checkout)
