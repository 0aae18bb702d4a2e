"""The process that predicts slides, as the service sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from histopipe.service.messages import JobMessage, JobRequest

KILL_SECONDS = 3.0  # that the process has to end before it is killed
LONGEST_LINE = 2**24  # bytes of a summary
SECRETS = frozenset({"HISTOPIPE_TOKEN"})  # hidden from the process, since it opens files of strangers
MAX_JOBS = 50  # of one process: its end releases the memory that libraries leak


class Worker:
    """A process that runs `histopipe.service.job_process`, one job at a time.

    A job that is cancelled or crashes ends the process; the next job then needs a new one.
    """

    def __init__(self) -> None:
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._jobs = 0

    def prepare(self) -> None:
        """Start the process if there is none, so that it loads its libraries."""
        if self._starting and self._starting.done() and self._has_died(self._starting):
            self._starting = None
        if self._starting is None:
            self._starting, self._jobs = asyncio.create_task(_start_process()), 0

    async def run(self, job: JobRequest, on_message: Callable[[JobMessage], None]) -> bool:
        """Run one job.

        Args:
            job: the job, as `histopipe.service.job_process` reads it.
            on_message: is called with every message of the process about the job.

        Returns:
            Whether the job came to an end, with a summary or an error.
        """
        self.prepare()
        assert self._starting
        process = await asyncio.shield(self._starting)
        self._jobs += 1
        ended = False
        try:
            assert process.stdin and process.stdout
            process.stdin.write(f"{json.dumps(job)}\n".encode())
            async for line in process.stdout:
                message = _parse(line)
                on_message(message)
                if ended := bool({"summary", "error"} & set(message)):
                    break
            return ended
        finally:
            if not ended or self._jobs >= MAX_JOBS:
                await self.close()

    async def close(self) -> None:
        """End the process, if there is one, with all its child processes."""
        starting, self._starting = self._starting, None
        if starting is None:
            return
        process = await starting
        if process.returncode is not None:
            return
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), KILL_SECONDS)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()

    @staticmethod
    def _has_died(starting: asyncio.Task[asyncio.subprocess.Process]) -> bool:
        return starting.cancelled() or starting.exception() is not None or starting.result().returncode is not None


async def _start_process() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "histopipe.service.job_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name not in SECRETS} | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        start_new_session=True,
        limit=LONGEST_LINE,
    )


def _parse(line: bytes) -> JobMessage:
    """Parse a message of the process; return an empty one for lines that libraries print."""
    try:
        message: JobMessage = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
