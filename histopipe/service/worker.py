"""The process that grades slides, as the server sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from histopipe.service.messages import JobMessage, JobRequest

KILL_SECONDS = 3.0  # that it has to end before it is killed
LONGEST_LINE = 2**24  # bytes of a summary
SECRETS = frozenset({"HISTOPIPE_TOKEN"})  # that a process which opens strangers' files need not know
MOST_JOBS = 50  # of one process: whatever a library forgets to give back is given back then


class Worker:
    """Runs `histopipe.service.job`, one job at a time; who is cancelled, or takes it down, costs a new process."""

    def __init__(self) -> None:
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._jobs = 0

    def prepare(self) -> None:
        """See that there is a process, and that it has begun to load what takes long."""
        if self._starting and self._starting.done() and self._died(self._starting):
            self._starting = None
        if self._starting is None:
            self._starting, self._jobs = asyncio.create_task(_started()), 0

    async def run(self, job: JobRequest, hear: Callable[[JobMessage], None]) -> bool:
        """Run one job; `hear` is told whatever the process says of it. Returns whether the job came to an end."""
        self.prepare()
        assert self._starting
        process = await asyncio.shield(self._starting)
        self._jobs += 1
        ended = False
        try:
            assert process.stdin and process.stdout
            process.stdin.write(f"{json.dumps(job)}\n".encode())
            async for line in process.stdout:
                said = _read(line)
                hear(said)
                if ended := bool({"summary", "error"} & set(said)):
                    break
            return ended
        finally:
            if not ended or self._jobs >= MOST_JOBS:
                await self.close()

    async def close(self) -> None:
        """End the process, if there is one, and what it started with it."""
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
    def _died(started: asyncio.Task[asyncio.subprocess.Process]) -> bool:
        return started.cancelled() or started.exception() is not None or started.result().returncode is not None


async def _started() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "histopipe.service.job"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name not in SECRETS} | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        start_new_session=True,
        limit=LONGEST_LINE,
    )


def _read(line: bytes) -> JobMessage:
    try:
        said: JobMessage = json.loads(line)
    except ValueError:  # a library's own word
        return {}
    return said if isinstance(said, dict) else {}


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
