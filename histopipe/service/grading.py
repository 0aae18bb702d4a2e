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
from collections.abc import Callable
from typing import Any

import numpy as np

from histopipe.networks.openvino import BATCH_SIZE
from histopipe.service.decoding import GONE, Decoders, Work, tell
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import Refused, busy
from histopipe.service.reading import Sent, Share

LATEST = 0.1  # weight of the latest batch in the mean time of a patch
FIRST_GUESS = 1e-3  # seconds a patch takes, before one was timed
PATIENCE = 60.0  # seconds that an admitted request may take, its decoding too
STOPPING = 5.0  # seconds for the last batch


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
        self._decoders = Decoders(limits, self._admit)
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

    async def grade(self, model: Model, files: list[Sent], share: Share, gone: Callable[[], bool]) -> list[float]:
        """Calibrated probabilities of images, in their order.

        Args:
            model: that grades them.
            files: taken over: the list is empty afterwards, or once they are decoded.
            share: of the memory, which they hold as long.
            gone: whether the client went away; nothing is graded for it then.

        Raises:
            Refused: an image can't be graded, the queue is full, or it took too long.
        """
        if self.full:
            raise busy("too many requests at the same time", 1)
        self._require_room(len(files))
        loop = asyncio.get_running_loop()
        work = Work(model, files, share, time.monotonic() + PATIENCE, gone, loop.create_future(), loop)
        self._under_way += 1
        try:
            self._decoders.submit(work)
            async with asyncio.timeout(PATIENCE):
                return await work.future
        except TimeoutError:
            raise busy("the patches weren't graded in time", 1) from None
        finally:
            self._under_way -= 1

    def drop_late(self) -> None:
        """Refuse what has waited for too long, and forget what nobody waits for; to be called now and then."""
        self._decoders.drop_late()

    def close(self) -> None:
        """Finish what is waiting to be graded, and end."""
        began = time.monotonic()
        self._decoders.close(STOPPING)
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(max(0.1, STOPPING - (time.monotonic() - began)))

    def _require_room(self, count: int) -> None:
        wait = (self._count + count) * self._seconds
        if self._count + count > self._limits.queue or (self._count and wait > self._limits.wait):
            raise busy("too many patches are waiting", math.ceil(wait))

    def _admit(self, work: Work) -> None:
        """Put what is decoded in the queue; in a thread of its own."""
        assert work.patches is not None
        with self._changed:
            self._require_room(len(work.patches))
            self._waiting.append(work)
            self._count += len(work.patches)
            self._changed.notify()

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
                patches += batch[-1].count
            self._count -= patches
            return batch

    def _grade(self, batch: list[Work]) -> None:
        wanted = [work for work in batch if work.wanted]
        outcomes: list[tuple[Work, Any]] = [(work, Refused(400, GONE)) for work in batch if not work.wanted]
        began = time.monotonic()
        try:
            found = self._probabilities(wanted)
            ends = np.cumsum([work.count for work in wanted]).tolist()
            outcomes += [(work, found[end - work.count : end]) for work, end in zip(wanted, ends, strict=True)]
            if found:
                self._seconds += LATEST * ((time.monotonic() - began) / len(found) - self._seconds)
                self._batch_done(len(found))
        except Exception as problem:  # of this batch: the next one may well be graded
            outcomes += [(work, problem) for work in wanted]
        tell(batch[0].loop, outcomes)

    @staticmethod
    def _probabilities(batch: list[Work]) -> list[float]:
        blocks = [work.patches for work in batch if work.patches is not None]
        if not blocks:
            return []
        patches = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        found: list[float] = batch[0].model.engine.probabilities(patches).tolist()
        return found
