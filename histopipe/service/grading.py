"""Patches of all clients graded together: decoded in threads, gathered in a bounded queue, computed by one thread.

Nobody waits for a batch to fill up: while one is computed the next one gathers, so that batches are as large as the
load is heavy. Who would wait for longer than is bearable is refused at once.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from histopipe.datasets import MemberRejected
from histopipe.images import MAX_PIXELS, Patch, count_pixels, decode_patch, pad_patch, resize_patch
from histopipe.inference import BATCH_SIZE
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import Refused
from histopipe.service.reading import Sent
from histopipe.store import Patches
from histopipe.workers import available_cores

LATEST = 0.1  # weight of the latest batch in the mean time of a patch
FIRST_GUESS = 1e-3  # seconds a patch takes, before one was timed
PATIENCE = 60.0  # seconds that an admitted request may take, its decoding too
STOPPING = 5.0  # seconds for the last batch

Outcome = list[float] | Refused


@dataclass(frozen=True)
class Work:
    """The patches of one request.

    Attributes:
        model: that was in use when it came, and grades it.
        patches: uint8 (patches, height, width, 3).
        deadline: after which nobody waits for it, in monotonic seconds.
        future, loop: who waits.
    """

    model: Model
    patches: Patches
    deadline: float
    future: asyncio.Future[list[float]]
    loop: asyncio.AbstractEventLoop


class Grader:
    """Grades the requests of one event loop.

    Args:
        limits: of the queue, and of images.
        batch_done: is told how many patches a batch had.
    """

    def __init__(self, limits: Limits, batch_done: Callable[[int], None] = lambda _: None) -> None:
        self._limits, self._batch_done = limits, batch_done
        self._waiting: deque[Work] = deque()
        self._count = self._under_way = 0
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = FIRST_GUESS
        self._decoders = ThreadPoolExecutor(max(1, min(4, available_cores())), "decode")
        self._thread = threading.Thread(target=self._run, name="grade", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether anything is graded."""
        return self._thread.is_alive()

    @property
    def full(self) -> bool:
        """Whether as many requests are graded as may be."""
        return self._under_way >= self._limits.requests

    @property
    def waiting(self) -> int:
        """Patches in the queue."""
        return self._count

    async def grade(self, model: Model, files: Sequence[Sent]) -> list[float]:
        """Calibrated probabilities of images, in their order.

        Raises:
            Refused: an image can't be graded, the queue is full, or it took too long.
        """
        if self.full:
            raise busy("too many requests at the same time", 1)
        self._under_way += 1
        try:
            return await self._graded(model, files)
        finally:
            self._under_way -= 1

    async def _graded(self, model: Model, files: Sequence[Sent]) -> list[float]:
        self._require_room(len(files))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[float]] = loop.create_future()
        deadline = time.monotonic() + PATIENCE
        self._decoders.submit(self._admit, model, files, deadline, future, loop)
        try:
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            raise busy("the patches weren't graded in time", 1) from None

    def close(self) -> None:
        """Finish what is waiting, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(STOPPING)
        self._decoders.shutdown(wait=False)

    def _require_room(self, count: int) -> None:
        wait = (self._count + count) * self._seconds
        if self._count + count > self._limits.queue or (self._count and wait > self._limits.wait):
            raise busy("too many patches are waiting", math.ceil(wait))

    def _admit(
        self,
        model: Model,
        files: Sequence[Sent],
        deadline: float,
        future: asyncio.Future[list[float]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """In a thread of its own: decode, and put in the queue."""
        try:
            work = Work(model, read_patches(files, model, self._limits), deadline, future, loop)
            with self._changed:
                self._require_room(len(work.patches))
                self._waiting.append(work)
                self._count += len(work.patches)
                self._changed.notify()
        except Exception as problem:
            loop.call_soon_threadsafe(_settle, [(future, problem)])

    def _run(self) -> None:
        while batch := self._next():
            self._grade(batch)

    def _next(self) -> list[Work]:
        """What is graded together, by one model; nothing once all is closed and done."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            batch: list[Work] = []
            patches = 0
            while self._waiting and patches < BATCH_SIZE and (not batch or self._waiting[0].model is batch[0].model):
                batch.append(self._waiting.popleft())
                patches += len(batch[-1].patches)
            self._count -= patches
            return batch

    def _grade(self, batch: list[Work]) -> None:
        now = time.monotonic()
        wanted = [work for work in batch if work.deadline > now and not work.future.cancelled()]
        if not wanted:
            return
        outcomes: list[tuple[asyncio.Future[list[float]], Any]]
        try:
            patches = np.concatenate([work.patches for work in wanted]) if len(wanted) > 1 else wanted[0].patches
            found = wanted[0].model.engine.probabilities(patches).tolist()
            ends = np.cumsum([len(work.patches) for work in wanted]).tolist()
            outcomes = [
                (work.future, found[end - len(work.patches) : end]) for work, end in zip(wanted, ends, strict=True)
            ]
            taken = (time.monotonic() - now) / len(patches)
            self._seconds += LATEST * (taken - self._seconds)
            self._batch_done(len(patches))
        except Exception as problem:  # of this batch: the next one may well be graded
            outcomes = [(work.future, problem) for work in wanted]
        wanted[0].loop.call_soon_threadsafe(_settle, outcomes)


def busy(detail: str, seconds: int) -> Refused:
    """A refusal that says when to come back."""
    return Refused(429, f"{detail}: try again later", headers={"Retry-After": str(max(1, seconds))})


def _settle(outcomes: list[tuple[asyncio.Future[list[float]], Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def read_patches(files: Sequence[Sent], model: Model, limits: Limits) -> Patches:
    """Decode images and bring them to the model's size, as `histopipe predict` does, (images, height, width, 3).

    Raises:
        Refused: some can't be graded; it names each of them.
    """
    block = np.empty((len(files), *model.served.patch_size, 3), np.uint8)
    faults = []
    for row, file in enumerate(files):
        try:
            block[row] = _fitted(_decoded(file.content, block[row], limits), model)
        except MemberRejected as reason:
            faults.append((file.name or f"image {row + 1}", _explained(str(reason), model)))
    if faults:
        first = f"{faults[0][0]}: {faults[0][1]}"
        raise Refused(422, first if len(faults) == 1 else f"{len(faults)} images can't be graded; {first}", faults)
    return block


def _decoded(content: bytes, into: Patch, limits: Limits) -> Patch:
    if limits.pixels < MAX_PIXELS and count_pixels(content) > limits.pixels:
        raise MemberRejected("absurd dimensions")
    return decode_patch(content, into)


def _fitted(patch: Patch, model: Model) -> Patch:
    return (resize_patch if model.point["resized"] else pad_patch)(patch, model.served.patch_size)


def _explained(reason: str, model: Model) -> str:
    height, width = model.served.patch_size
    remedies = {
        "larger than a patch": f"larger than a patch of {width} x {height} pixels: cut it into patches",
        "absurd dimensions": "more pixels than an image may have: cut it into patches",
        "not a readable image": "not a readable PNG, JPEG, TIFF or BMP image",
    }
    return remedies.get(reason, reason)
