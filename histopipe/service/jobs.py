"""Prediction of slides and archives as jobs, one after the other; results are kept for a while, then deleted."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from histopipe.core.cases.ids import normal_id
from histopipe.core.files import format_size
from histopipe.core.names import remove_control_characters
from histopipe.core.operating_point import OperatingPoint
from histopipe.service.limits import Limits
from histopipe.service.messages import JobMessage, JobRequest
from histopipe.service.models import Model, ModelRequest
from histopipe.service.problems import RequestError, busy_error
from histopipe.service.worker import Worker

State = Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]
ENDED = frozenset({"done", "failed", "cancelled"})
SWEEP_SECONDS = 5.0
RESERVE = 256 * 2**20  # bytes of the disk that stay free
DEFAULT_NAME = "slide"  # used where a file has no usable name
LOG = logging.getLogger(__name__)

_SAFE = frozenset(
    "._- ()[]=,+#@"
)  # kept besides letters and digits, so that case ids equal those on the client's machine
_LONGEST_FILE_NAME = 200  # bytes, of the 255 that file systems allow


@dataclass(frozen=True)
class ModelReference:
    """A reference to a job's model, kept instead of the model so that its memory can be released.

    Attributes:
        address: address by which exactly this version is loaded.
        identity: name and version.
        point: operating point.
    """

    address: str
    identity: dict[str, str]
    point: OperatingPoint


@dataclass
class Job:
    """One uploaded slide or archive.

    Attributes:
        id: random name by which clients ask for the job; can't be guessed.
        folder: folder with all files of the job.
        model: the model that was in use when the file came.
        name: name of the file on the client's machine.
        state: where the job is in its life.
        step: name of the current step of the prediction.
        done: number of patches predicted so far.
        total: number of all patches; None while it isn't known.
        error: why the job failed.
        summary: the summary that the prediction wrote.
        created: time at which the job was created, in seconds since 1970.
        mpp: pixel size of the model's patches in micrometres, if the client sent one.
        slide_mpp: pixel size of the slide in micrometres, if the client sent one.
        ended: monotonic time in seconds at which the job ended.
        writing: lock for files that are added to the result.
        task: task that runs the job.
    """

    id: str
    folder: Path
    model: ModelReference
    name: str = ""
    state: State = "uploading"
    step: str = ""
    done: int = 0
    total: int | None = None
    error: str | None = None
    summary: dict[str, object] | None = None
    created: float = field(default_factory=time.time)
    mpp: float | None = None
    slide_mpp: float | None = None
    ended: float | None = None
    writing: threading.Lock = field(default_factory=threading.Lock)
    task: asyncio.Task[None] | None = None

    @property
    def upload(self) -> Path:
        """Path of the uploaded file, which keeps its name because the case id is made from it."""
        return next((self.folder / "upload").iterdir())

    @property
    def result(self) -> Path:
        """Folder that the prediction writes, as `histopipe predict` does."""
        return self.folder / "result"

    def create(self, name: str) -> BinaryIO:
        """Create the file to upload into, under a safe form of its name."""
        self.name = remove_control_characters(name) or DEFAULT_NAME
        safe = "".join(letter if letter.isalnum() or letter in _SAFE else "_" for letter in normal_id(self.name))
        short = safe.encode("utf-8", "ignore")[-_LONGEST_FILE_NAME:].decode("utf-8", "ignore")
        (self.folder / "upload").mkdir()
        return (self.folder / "upload" / (short.lstrip(". ") or DEFAULT_NAME)).open("xb")


class Jobs:
    """All jobs of one service.

    Args:
        model_request: the model that is served.
        limits: limits on the number, duration and keeping of jobs.
        scratch: folder for the files of jobs, used by this service only.
        on_end: is called with the final state of every job.
    """

    def __init__(
        self, model_request: ModelRequest, limits: Limits, scratch: Path, on_end: Callable[[str], None]
    ) -> None:
        self._model_request, self._limits, self._scratch, self._on_end = model_request, limits, scratch, on_end
        self._jobs: dict[str, Job] = {}
        self._worker = Worker()
        self._turn = asyncio.Semaphore(1)  # one job uses all cores
        self._sweeper = asyncio.create_task(self._sweep())

    def __len__(self) -> int:
        return sum(job.state not in ENDED for job in self._jobs.values())

    def get(self, job_id: str) -> Job:
        """Return a job by its id.

        Raises:
            RequestError: there is no such job.
        """
        try:
            return self._jobs[job_id]
        except KeyError:
            raise RequestError(404, "no such job: it may have been cancelled, or its result was deleted") from None

    def open(self, model: Model) -> Job:
        """Create a job for a file that is about to be uploaded.

        Raises:
            RequestError: too many jobs run or wait, or the disk is full.
        """
        if len(self) >= self._limits.jobs:
            raise busy_error(f"{self._limits.jobs} slides are under way", 30)
        if (free := shutil.disk_usage(self._scratch).free) < RESERVE:
            raise RequestError(507, f"only {format_size(free)} of the service's disk are free: try again later")
        job_id = secrets.token_urlsafe(18)
        self._worker.prepare()
        job = Job(job_id, self._scratch / job_id, ModelReference(model.address, model.identity, model.point))
        job.folder.mkdir()
        self._jobs[job_id] = job
        return job

    def start(self, job: Job) -> None:
        """Queue a job whose file is uploaded."""
        job.state = "waiting"
        job.task = asyncio.create_task(self._run_in_turn(job))

    async def remove(self, job: Job) -> None:
        """Cancel a job, or delete its result; nothing of it stays on disk."""
        self._jobs.pop(job.id, None)
        if job.task:
            job.task.cancel()
            with suppress(asyncio.CancelledError):
                await job.task
        if job.state not in ENDED:
            self._end(job, "cancelled")
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def close(self) -> None:
        """Cancel all jobs and delete all results."""
        self._sweeper.cancel()
        for job in list(self._jobs.values()):
            await self.remove(job)
        await self._worker.close()

    async def _run_in_turn(self, job: Job) -> None:
        async with self._turn:
            job.state = "running"
            try:
                async with asyncio.timeout(self._limits.job_seconds):
                    await self._run(job)
            except TimeoutError:
                job.error = f"it took longer than {self._limits.job_seconds:g} s: send less at once"
            except Exception:
                LOG.exception("the job %s failed", job.name)
                job.error = "it could not be predicted: see the service's log"
            shutil.rmtree(job.folder / "upload", ignore_errors=True)
            self._end(job, "done" if job.summary else "failed")

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended = state, time.monotonic()
        self._on_end(state)

    async def _run(self, job: Job) -> None:
        request: JobRequest = {
            "input": str(job.upload),
            "model": job.model.address,
            "dataset": self._model_request.dataset,
            "out": str(job.result),
            "scratch": str(job.folder / "scratch"),
            "root": str(self._model_request.workspace.root),
            "precision": self._model_request.precision,
            "mpp": job.mpp or self._model_request.mpp,
            "slide_mpp": job.slide_mpp,
            "members": self._limits.members,
        }
        (job.folder / "scratch").mkdir()
        if not await self._worker.run(request, lambda message: self._update(job, message)):
            job.error = "the process that predicted it died: the file may be damaged"

    def _update(self, job: Job, message: JobMessage) -> None:
        if "error" in message:
            job.error = str(message["error"]).replace(f"{job.folder / 'upload'}/", "")
        elif "summary" in message:
            job.summary = {**message["summary"], "model": job.model.identity}
        elif "done" in message:
            job.step, job.done, job.total = message["step"], message["done"], message["total"]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for job in list(self._jobs.values()):
                if job.ended is not None and now - job.ended > self._limits.keep:
                    await self.remove(job)
