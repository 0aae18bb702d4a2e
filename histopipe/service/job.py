"""Slides and archives graded in a process of their own: what `histopipe predict` does, with progress on stdout.

A process, because it can be ended at any moment, takes its memory with it, and may die of a hostile slide alone. It
takes one job after the other, since it loads libraries for longer than a case takes it.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from histopipe.service.messages import JobRequest

PROGRESS_SECONDS = 0.4
ORPHANED = 137  # exit code once the server is gone
LONGEST_NAME = 300  # letters of a file's name in a summary
OPTIONS = {"--slide-mpp": "the parameter `slide_mpp`", "--mpp": "the parameter `mpp`"}  # what clients have for them

TOO_MANY = "send fewer in each archive"  # to clients

Jobs = queue.SimpleQueue[JobRequest]


def main() -> None:
    """Load what takes long, then grade what stdin names, a job a line.

    A job ends with a line on stdout that holds `summary`, or `error`. What nobody foresaw is told on stderr, which is
    the server's log; bars and libraries' words aren't.
    """
    log = os.fdopen(os.dup(2), "w")
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        work(log)
    except BaseException:
        traceback.print_exc(file=log)
        raise


def work(log: TextIO) -> None:
    """Jobs, one after the other."""
    jobs: Jobs = queue.SimpleQueue()
    for watch in (lambda: receive(jobs), watch_progress):
        threading.Thread(target=watch, daemon=True).start()
    import matplotlib.figure  # noqa: F401
    from keras import ops  # noqa: F401  # with the library below it

    import histopipe.inference.stage  # noqa: F401

    bound_memory()
    while True:
        asked = jobs.get()
        try:
            grade(asked)
        except Exception as problem:
            traceback.print_exc(file=log)
            log.flush()
            say(error=unforeseen(problem))


def bound_memory() -> None:
    """So that a hostile file can't take all of the machine's: the kernel ends this process before any other.

    Where nothing but the CPU computes, it can't have more than the machine's memory beside what libraries have mapped.
    """
    import psutil

    from histopipe.networks.backend import is_on_tensorflow_cpu

    with suppress(OSError, ValueError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if is_on_tensorflow_cpu():
        most = psutil.Process().memory_info().vms + psutil.virtual_memory().total
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def unforeseen(problem: Exception) -> str:
    """What clients are told of a problem that isn't theirs, as far as they know."""
    from histopipe.networks.backend import is_out_of_memory
    from histopipe.service.reading import FULL

    if isinstance(problem, OSError) and problem.errno in FULL:
        return "it could not be graded: the server's disk is full, try again later"
    if is_out_of_memory(problem):
        return "it could not be graded: it takes more memory than the server has"
    return "it could not be graded: the server's log says why"


def grade(asked: JobRequest) -> None:
    """One job."""
    from histopipe.core.errors import HistopipeError
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.inference.pixel_size import trained_pixel_size
    from histopipe.inference.slide_prediction import SlideOptions
    from histopipe.inference.stage import score
    from histopipe.ingest.archives.limits import MemberLimit

    os.environ["TMPDIR"] = tempfile.tempdir = asked["scratch"]
    files, out, workspace = [Path(asked["input"])], Path(asked["out"]), Workspace(Path(asked["root"]))
    try:
        block = read_params(workspace.params).dataset(asked["dataset"])
        mpp = asked["mpp"] or trained_pixel_size(asked["dataset"], block)
        reading = SlideOptions(mpp, asked["slide_mpp"], tissue=True)
        limit = MemberLimit(asked["members"], TOO_MANY)
        model, precision = asked["model"], asked["precision"]
        found = score(files, model, asked["dataset"], out, workspace, precision, reading=reading, limit=limit)
        say(summary=for_clients(found))
    except HistopipeError as problem:
        say(error=in_their_words(str(problem)))


def for_clients(found: Any) -> Any:
    """A summary with names of bearable length, and parameters in place of options."""
    if isinstance(found, dict):
        return {in_their_words(name): for_clients(content) for name, content in found.items()}
    if isinstance(found, list):
        return [for_clients(one) for one in found]
    return found[:LONGEST_NAME] if isinstance(found, str) else found


def in_their_words(said: str) -> str:
    """A message that names parameters of a request in place of the command's options."""
    for option, parameter in OPTIONS.items():
        said = said.replace(option, parameter)
    return said


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
    from histopipe.core.startup_lines import drop_start_up_lines

    drop_start_up_lines()
    main()
