"""Slides and archives, graded one after the other; results are kept for a while, and then nothing of them is left."""

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
from histopipe.core.files import as_size
from histopipe.core.names import without_control
from histopipe.core.operating_point import OperatingPoint
from histopipe.service.limits import Limits
from histopipe.service.messages import JobMessage, JobRequest
from histopipe.service.models import Asked, Model
from histopipe.service.problems import Refused, busy
from histopipe.service.worker import Worker

State = Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]
ENDED = frozenset({"done", "failed", "cancelled"})
SWEEP_SECONDS = 5.0
RESERVE = 256 * 2**20  # bytes of the disk that stay free
NAME = "slide"  # where a file's own name says nothing
LOG = logging.getLogger(__name__)

_SAFE = frozenset("._- ()[]=,+#@")  # beside letters and digits: a case is called as it would be on the client's machine
_LONGEST_FILE_NAME = 200  # bytes, of the 255 that file systems take


@dataclass(frozen=True)
class ModelFacts:
    """What is kept of a job's model: the model itself would stay in memory for as long as the result is kept.

    Attributes:
        address: by which exactly this version is loaded.
        shown: its name and version.
        point: its operating point.
    """

    address: str
    shown: dict[str, str]
    point: OperatingPoint


@dataclass
class Job:
    """One upload.

    Attributes:
        id: by which it is asked for; can't be guessed.
        folder: all that it holds on disk.
        model: that was in use when it came.
        name: of the file, as the client called it.
        step, done, total: how far it has come; the total isn't known of an archive read from front to back.
        mpp, slide_mpp: micrometres to a pixel of the model's patches and of slides, where the client says so.
        ended: when, in monotonic seconds.
        writing: held by whoever writes into its result.
    """

    id: str
    folder: Path
    model: ModelFacts
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
        """What was sent: under its own name, of which the case's is made."""
        return next((self.folder / "upload").iterdir())

    @property
    def result(self) -> Path:
        """The folder that `histopipe predict` writes."""
        return self.folder / "result"

    def create(self, name: str) -> BinaryIO:
        """Open the file that is uploaded."""
        self.name = without_control(name) or NAME
        safe = "".join(letter if letter.isalnum() or letter in _SAFE else "_" for letter in normal_id(self.name))
        safe = safe.encode("utf-8", "ignore")[-_LONGEST_FILE_NAME:].decode("utf-8", "ignore").lstrip(". ") or NAME
        (self.folder / "upload").mkdir()
        return (self.folder / "upload" / safe).open("xb")


class Jobs:
    """All jobs of one server.

    Args:
        asked: the model that is served.
        limits: how many, how long.
        scratch: a folder of this server's own.
        ended: is told the state in which each job ended.
    """

    def __init__(self, asked: Asked, limits: Limits, scratch: Path, ended: Callable[[str], None]) -> None:
        self._asked, self._limits, self._scratch, self._told = asked, limits, scratch, ended
        self._jobs: dict[str, Job] = {}
        self._worker = Worker()
        self._turn = asyncio.Semaphore(1)  # one takes all cores
        self._sweeper = asyncio.create_task(self._sweep())

    def __len__(self) -> int:
        return sum(job.state not in ENDED for job in self._jobs.values())

    def get(self, name: str) -> Job:
        """A job by its id.

        Raises:
            Refused: there is none.
        """
        try:
            return self._jobs[name]
        except KeyError:
            raise Refused(404, "no such job: it may have been cancelled, or its time is over") from None

    def open(self, model: Model) -> Job:
        """A new job, for a file that is about to be uploaded.

        Raises:
            Refused: too many are under way, or the disk is full.
        """
        if len(self) >= self._limits.jobs:
            raise busy(f"{self._limits.jobs} slides are under way", 30)
        if (free := shutil.disk_usage(self._scratch).free) < RESERVE:
            raise Refused(507, f"only {as_size(free)} of the server's disk are free: try again later")
        name = secrets.token_urlsafe(18)
        self._worker.prepare()
        job = Job(name, self._scratch / name, ModelFacts(model.address, model.shown, model.point))
        job.folder.mkdir()
        self._jobs[name] = job
        return job

    def start(self, job: Job) -> None:
        """Let an uploaded job take its turn."""
        job.state = "waiting"
        job.task = asyncio.create_task(self._take_turn(job))

    async def remove(self, job: Job) -> None:
        """Cancel a job, or forget its result; nothing of it stays on disk."""
        self._jobs.pop(job.id, None)
        if job.task:
            job.task.cancel()
            with suppress(asyncio.CancelledError):
                await job.task
        if job.state not in ENDED:
            self._end(job, "cancelled")
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def close(self) -> None:
        """Cancel all."""
        self._sweeper.cancel()
        for job in list(self._jobs.values()):
            await self.remove(job)
        await self._worker.close()

    async def _take_turn(self, job: Job) -> None:
        async with self._turn:
            job.state = "running"
            try:
                async with asyncio.timeout(self._limits.job_seconds):
                    await self._run(job)
            except TimeoutError:
                job.error = f"it took longer than {self._limits.job_seconds:g} s: send less at once"
            except Exception:
                LOG.exception("the job %s failed", job.name)
                job.error = "it could not be graded: the server's log says why"
            shutil.rmtree(job.folder / "upload", ignore_errors=True)
            self._end(job, "done" if job.summary else "failed")

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended = state, time.monotonic()
        self._told(state)

    async def _run(self, job: Job) -> None:
        specification: JobRequest = {
            "input": str(job.upload),
            "model": job.model.address,
            "dataset": self._asked.dataset,
            "out": str(job.result),
            "scratch": str(job.folder / "scratch"),
            "root": str(self._asked.workspace.root),
            "precision": self._asked.precision,
            "mpp": job.mpp or self._asked.mpp,
            "slide_mpp": job.slide_mpp,
            "members": self._limits.members,
        }
        (job.folder / "scratch").mkdir()
        if not await self._worker.run(specification, lambda said: self._hear(job, said)):
            job.error = "the process that graded it died: the file may be damaged"

    def _hear(self, job: Job, said: JobMessage) -> None:
        if "error" in said:
            job.error = str(said["error"]).replace(f"{job.folder / 'upload'}/", "")
        elif "summary" in said:
            job.summary = {**said["summary"], "model": job.model.shown}
        elif "done" in said:
            job.step, job.done, job.total = said["step"], said["done"], said["total"]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for job in list(self._jobs.values()):
                if job.ended is not None and now - job.ended > self._limits.keep:
                    await self.remove(job)
