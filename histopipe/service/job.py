"""One slide or archive graded in a process of its own: what `histopipe predict` does, with progress on stdout.

A process, because it can be ended at any moment, takes its memory with it, and may die of a hostile slide alone.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PROGRESS_SECONDS = 0.4


def main() -> None:
    """Load what takes long, wait for a job on stdin, grade it and end.

    The last line on stdout holds `summary`, or `error` where a user can mend it.
    """
    import matplotlib.figure  # noqa: F401
    from keras import ops  # noqa: F401  # with the library below it

    from histopipe.errors import HistopipeError
    from histopipe.paths import Workspace
    from histopipe.scoring import score

    asked = _job()
    files, model, dataset, out = [Path(asked["input"])], asked["model"], asked["dataset"], Path(asked["out"])
    try:
        summary = score(files, model, dataset, out, Workspace(Path(asked["root"])), asked["precision"])
    except HistopipeError as problem:
        say(error=str(problem))
        sys.exit(2)
    say(summary=summary)


def _job() -> dict[str, Any]:
    line = sys.stdin.buffer.readline()
    if not line:  # the server ended
        sys.exit()
    asked: dict[str, Any] = json.loads(line)
    os.environ["TMPDIR"] = tempfile.tempdir = asked["scratch"]
    for watch in (end_with_server, watch_progress):
        threading.Thread(target=watch, daemon=True).start()
    return asked


def say(**content: Any) -> None:
    """One line for the server."""
    print(json.dumps(content), flush=True)


def watch_progress() -> None:
    """Tell how far each progress bar of this process has come."""
    from tqdm import tqdm

    while True:
        time.sleep(PROGRESS_SECONDS)
        bars = [bar for bar in list(tqdm._instances) if bar.n]  # type: ignore[attr-defined]  # what tqdm itself redraws
        if bars:
            last = bars[-1]
            say(step=str(last.desc or "").strip(": "), done=int(last.n), total=None if not last.total else last.total)


def end_with_server() -> None:
    """End when the server has: it holds the other end of stdin."""
    sys.stdin.buffer.read()
    os._exit(137)


if __name__ == "__main__":
    main()
