"""What commits refer to: the hashes in every `dvc.lock` that git can reach, and the MLflow runs in their records."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from histopipe.core.errors import HistopipeError
from histopipe.core.lineage import git_problem
from histopipe.core.workspace import Workspace

RECORDS = ("run.json", "metrics.json", "summary.json", "comparison.json")  # outputs that name runs
OUTPUTS = ("drift", "evaluations", "exports", "models", "reports", "scores", "searches", "studies")
HASH = re.compile(r"\bmd5: ['\"]?([0-9a-f]{32}(?:\.dir)?)\b")  # quoted if YAML would read it as a number

_RUN_ID = re.compile(r"\b[0-9a-f]{32}\b")


@dataclass(frozen=True)
class History:
    """The past and present versions of the checkout.

    Attributes:
        workspace: the checkout.
        cache: DVC's cache, which keeps objects by their hash.
    """

    workspace: Workspace
    cache: Path

    def reread(self) -> History:
        """Return a new history, which reads everything again."""
        return History(self.workspace, self.cache)

    @cached_property
    def locks(self) -> list[str]:
        """The content of every version of `dvc.lock`: here, staged, stashed, in each branch, tag and experiment.

        Raises:
            HistopipeError: git can't list them all.
        """
        if git(self.workspace, "rev-parse", "--is-shallow-repository").strip() == "true":
            raise HistopipeError("this is a shallow clone, which lacks older commits: run git fetch --unshallow")
        stashes = git(self.workspace, "stash", "list", "--format=%H").split()  # `--all` only includes the newest
        listed = git(self.workspace, "rev-list", "--all", *stashes, "--full-history", "--objects", "--", "dvc.lock")
        blobs = {words[0] for line in listed.splitlines() if len(words := line.split()) == 2}
        staged = git(self.workspace, "ls-files", "--stage", "--", "dvc.lock")
        blobs |= {line.split()[1] for line in staged.splitlines()}
        texts = [git(self.workspace, "cat-file", "-p", blob) for blob in sorted(blobs) if self._is_file(blob)]
        present = self.workspace.dvc_lock
        return [*texts, *([present.read_text(encoding="utf-8")] if present.exists() else [])]

    def _is_file(self, blob: str) -> bool:
        return git(self.workspace, "cat-file", "-t", blob).strip() == "blob"

    @cached_property
    def hashes(self) -> frozenset[str]:
        """Hashes in any `dvc.lock`, and those of the files in the folders among them."""
        named = {name for text in self.locks for name in HASH.findall(text)}
        inner = {entry for name in named if name.endswith(".dir") for entry in self._entries(name)}
        return frozenset(named | inner)

    def _entries(self, folder: str) -> list[str]:
        try:
            return [str(entry["md5"]) for entry in json.loads(self.object(folder).read_bytes())]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def object(self, name: str) -> Path:
        """Return the path of a hash's object in the cache."""
        return self.cache / "files" / "md5" / name[:2] / name[2:]

    @cached_property
    def runs(self) -> frozenset[str]:
        """Ids of the runs in records: those of the checkout, and those of every commit that are in the cache."""
        texts = (_read(path) for path in (*self._present_records(), *self._past_records()))
        return frozenset(run_id for text in texts for run_id in _RUN_ID.findall(text))

    def _present_records(self) -> Iterator[Path]:
        for folder in OUTPUTS:
            yield from (
                path for path in (self.workspace.checkout / folder).rglob("*") if path.suffix in (".json", ".md")
            )

    def _past_records(self) -> Iterator[Path]:
        return (self.object(name) for path, name in self._recorded if path.endswith(RECORDS))

    @cached_property
    def absent(self) -> frozenset[tuple[str, ...]]:
        """Folders of which a commit has a `run.json` that isn't in the cache, so that its run is unknown here."""
        missing = (
            path for path, name in self._recorded if path.endswith("run.json") and not self.object(name).exists()
        )
        return frozenset(tuple(Path(path).parent.parts) for path in missing)

    @cached_property
    def _recorded(self) -> frozenset[tuple[str, str]]:
        """Path and hash of every output of every version."""
        return frozenset(output for text in self.locks for output in _outputs(text))


def _outputs(text: str) -> list[tuple[str, str]]:
    """Return path and hash of the outputs in a `dvc.lock`.

    Raises:
        HistopipeError: the file can't be read.
    """
    try:
        content: Any = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        outputs = [out for stage in (content or {}).get("stages", {}).values() for out in stage.get("outs", [])]
        return [(str(out["path"]), str(out["md5"])) for out in outputs if "md5" in out]
    except (yaml.YAMLError, AttributeError, TypeError, KeyError):
        raise HistopipeError("a dvc.lock in git's history can't be read, so any file may be needed") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def git(workspace: Workspace, *arguments: str) -> str:
    """Run a git command in the checkout and return what it prints.

    Raises:
        HistopipeError: the command fails.
    """
    command = ["git", "-C", str(workspace.checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as problem:  # there is no git
        raise HistopipeError(f"git can't list what commits need ({problem}): install it") from None
    if done.returncode != 0:
        message = (done.stderr.strip().splitlines() or ["no output"])[0]
        reason, remedy = git_problem(workspace.checkout) or (message, "run in a clone that git can read")
        raise HistopipeError(f"git can't list what commits need ({reason}): {remedy}")
    return done.stdout
