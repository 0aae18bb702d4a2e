"""The process that predicts slides and archives: it reads jobs from stdin and reports progress and results on stdout.

A job does what `histopipe predict` does. It runs in its own process because that can be ended at any moment, returns
all its memory, and may crash on a hostile slide without harm to the service. The process runs one job after the other,
since loading the libraries takes longer than predicting a case.
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
ORPHANED = 137  # exit code once the service is gone
LONGEST_NAME = 300  # characters of a file name in a summary
PARAMETERS = {"--slide-mpp": "the parameter `slide_mpp`", "--mpp": "the parameter `mpp`"}  # by the command's options

MEMBERS_REMEDY = "send fewer in each archive"

Jobs = queue.SimpleQueue[JobRequest]


def main() -> None:
    """Load the libraries, then run the jobs that stdin names, one per line.

    The last line on stdout for a job contains its `summary` or its `error`. Unexpected errors are written to stderr,
    which is the service's log; progress bars and messages of libraries are not.
    """
    log = os.fdopen(os.dup(2), "w")
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        run_jobs(log)
    except BaseException:
        traceback.print_exc(file=log)
        raise


def run_jobs(log: TextIO) -> None:
    """Run jobs one after the other until the process ends."""
    jobs: Jobs = queue.SimpleQueue()
    for target in (lambda: receive_jobs(jobs), report_progress):
        threading.Thread(target=target, daemon=True).start()
    import matplotlib.figure  # noqa: F401
    from keras import ops  # noqa: F401  # also loads the backend

    import histopipe.inference.stage  # noqa: F401

    limit_memory()
    while True:
        job = jobs.get()
        try:
            run_job(job)
        except Exception as problem:
            traceback.print_exc(file=log)
            log.flush()
            send(error=unexpected_error_message(problem))


def limit_memory() -> None:
    """Prevent a hostile file from taking all memory: the kernel ends this process before any other.

    On a CPU the process is also limited to the machine's memory on top of what libraries have mapped.
    """
    import psutil

    from histopipe.networks.backend import is_on_tensorflow_cpu

    with suppress(OSError, ValueError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if is_on_tensorflow_cpu():
        limit = psutil.Process().memory_info().vms + psutil.virtual_memory().total
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def unexpected_error_message(problem: Exception) -> str:
    """Return the message for clients about an error that is not a fault of their file."""
    from histopipe.networks.backend import is_out_of_memory
    from histopipe.service.reading import DISK_FULL

    if isinstance(problem, OSError) and problem.errno in DISK_FULL:
        return "it could not be predicted: the service's disk is full, try again later"
    if is_out_of_memory(problem):
        return "it could not be predicted: it takes more memory than the service has"
    return "it could not be predicted: see the service's log"


def run_job(job: JobRequest) -> None:
    """Predict the file of one job and send the summary, or the error that the client can fix."""
    from histopipe.core.errors import HistopipeError
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.inference.pixel_size import trained_pixel_size
    from histopipe.inference.slide_prediction import SlideOptions
    from histopipe.inference.stage import predict
    from histopipe.ingest.archives.limits import MemberLimit

    os.environ["TMPDIR"] = tempfile.tempdir = job["scratch"]
    files, out, workspace = [Path(job["input"])], Path(job["out"]), Workspace(Path(job["root"]))
    try:
        block = read_params(workspace.params).dataset(job["dataset"])
        mpp = job["mpp"] or trained_pixel_size(job["dataset"], block)
        slide_options = SlideOptions(mpp, job["slide_mpp"], tissue=True)
        limit = MemberLimit(job["members"], MEMBERS_REMEDY)
        model, precision = job["model"], job["precision"]
        summary = predict(
            files, model, job["dataset"], out, workspace, precision, slide_options=slide_options, limit=limit
        )
        send(summary=translate_for_clients(summary))
    except HistopipeError as problem:
        send(error=name_parameters(str(problem)))


def translate_for_clients(value: Any) -> Any:
    """Shorten the names in a summary, and name request parameters instead of command options."""
    if isinstance(value, dict):
        return {name_parameters(name): translate_for_clients(content) for name, content in value.items()}
    if isinstance(value, list):
        return [translate_for_clients(item) for item in value]
    return value[:LONGEST_NAME] if isinstance(value, str) else value


def name_parameters(message: str) -> str:
    """Replace the command's options in a message by the parameters of a request."""
    for option, parameter in PARAMETERS.items():
        message = message.replace(option, parameter)
    return message


def send(**content: Any) -> None:
    """Send one line to the service."""
    print(json.dumps(content), flush=True)


def receive_jobs(jobs: Jobs) -> None:
    """Put the jobs that the service sends into the queue; end this process once the service is gone."""
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    os._exit(ORPHANED)


def report_progress() -> None:
    """Send the state of the latest progress bar of this process, several times a second."""
    from tqdm import tqdm

    while True:
        time.sleep(PROGRESS_SECONDS)
        bars = [bar for bar in list(getattr(tqdm, "_instances", ())) if bar.n]  # the bars that tqdm itself redraws
        if bars:
            bar = bars[-1]
            send(step=str(bar.desc or "").strip(": "), done=int(bar.n), total=int(bar.total) if bar.total else None)


if __name__ == "__main__":
    from histopipe.core.startup_lines import drop_startup_lines

    drop_startup_lines()
    main()
