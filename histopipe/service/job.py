"""Slides and archives graded in a process of their own: what `histopipe predict` does, with progress on stdout.

A process, because it can be ended at any moment, takes its memory with it, and may die of a hostile slide alone. It
takes one job after the other, since it loads libraries for longer than a case takes it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PROGRESS_SECONDS = 0.4
ORPHANED = 137  # exit code once the server is gone

Jobs = queue.SimpleQueue[dict[str, Any]]


def main() -> None:
    """Load what takes long, then grade what stdin names, a job a line.

    A job ends with a line on stdout that holds `summary`, or `error` where a user can mend it.
    """
    jobs: Jobs = queue.SimpleQueue()
    for watch in (lambda: receive(jobs), watch_progress):
        threading.Thread(target=watch, daemon=True).start()
    import matplotlib.figure  # noqa: F401
    from keras import ops  # noqa: F401  # with the library below it

    import histopipe.scoring  # noqa: F401

    while True:
        grade(jobs.get())


def grade(asked: dict[str, Any]) -> None:
    """One job."""
    from histopipe.errors import HistopipeError
    from histopipe.params import read_params
    from histopipe.paths import Workspace
    from histopipe.scoring import score
    from histopipe.scoring.pixel_size import trained_pixel_size
    from histopipe.scoring.slides import SlideOptions

    os.environ["TMPDIR"] = tempfile.tempdir = asked["scratch"]
    files, out, workspace = [Path(asked["input"])], Path(asked["out"]), Workspace(Path(asked["root"]))
    try:
        block = read_params(workspace.params).dataset(asked["dataset"])
        reading = SlideOptions(trained_pixel_size(asked["dataset"], block))
        say(summary=score(files, asked["model"], asked["dataset"], out, workspace, asked["precision"], reading=reading))
    except HistopipeError as problem:
        say(error=str(problem))


def say(**content: Any) -> None:
    """One line for the server."""
    print(json.dumps(content), flush=True)


def receive(jobs: Jobs) -> None:
    """Take the server's lines; once it is gone, so is this process."""
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    os._exit(ORPHANED)


def watch_progress() -> None:
    """Tell how far each progress bar of this process has come."""
    from tqdm import tqdm

    while True:
        time.sleep(PROGRESS_SECONDS)
        bars = [bar for bar in list(getattr(tqdm, "_instances", ())) if bar.n]  # those that tqdm itself redraws
        if bars:
            last = bars[-1]
            say(step=str(last.desc or "").strip(": "), done=int(last.n), total=int(last.total) if last.total else None)


if __name__ == "__main__":
    main()
