"""Images of all clients decoded in threads, for no longer than somebody waits for them.

Small images and large ones stand in lanes of their own, and one thread takes none but small ones: a patch of 7 kB waits
for no other client's pictures of 4 million pixels, which come in files as small. Whoever doesn't get his turn in time
is refused. What was sent is dropped as soon as it is decoded, refused, or nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from histopipe.core.workers import available_cores
from histopipe.data.store import Patches
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch, decode_patch, pad_patch, read_header_size, resize_patch
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import Refused, busy
from histopipe.service.reading import Sent, Share

MOST_THREADS = 4  # for large images; one more takes small ones alone
SMALL = 512 * 512  # pixels of an image that is soon decoded, whatever it holds
QUANTUM = 0.2  # seconds of decoding after which a request stands in line with those of large images
LARGE_WAITING = 16  # requests with large images that may wait: others must get a place beside them
GONE = "the client went away"

Outcome = list[float] | Exception


@dataclass(eq=False)
class Work:
    """One request on its way from files to probabilities.

    Attributes:
        model: that was in use when it came, and grades it.
        files: as they were sent; none once they are decoded or dropped.
        share: of the memory, which they hold as long.
        deadline: after which nobody waits for it, in monotonic seconds.
        gone: whether the client went away.
        future, loop: who waits.
        patches: decoded, uint8 (files, height, width, 3).
        row: the file that is decoded next.
        faults: names and reasons of images that can't be graded.
        since: when it got into its lane.
        used: seconds of decoding so far.
    """

    model: Model
    files: list[Sent]
    share: Share
    deadline: float
    gone: Callable[[], bool]
    future: asyncio.Future[list[float]]
    loop: asyncio.AbstractEventLoop
    patches: Patches | None = None
    row: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    since: float = 0.0
    used: float = 0.0
    _holds: bool = True

    def __post_init__(self) -> None:
        self.share.lend()

    @property
    def count(self) -> int:
        """Patches, once they are decoded."""
        return 0 if self.patches is None else len(self.patches)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return not self.future.done() and not self.gone() and time.monotonic() < self.deadline

    def drop(self) -> None:
        """Forget the files, and give back what they take."""
        self.files.clear()
        if self._holds:
            self._holds = False
            self.share.release()

    def end(self, outcome: Outcome) -> None:
        """Drop it, and tell who waits; from any thread."""
        self.drop()
        self.patches = None
        tell(self.loop, [(self, outcome)])


def tell(loop: asyncio.AbstractEventLoop, outcomes: list[tuple[Work, Any]]) -> None:
    """Settle from another thread; nobody is told once the loop has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(settle, outcomes)


def settle(outcomes: list[tuple[Work, Any]]) -> None:
    """Tell whoever waits for them, in the event loop."""
    for work, outcome in outcomes:
        if work.future.done():
            continue
        if isinstance(outcome, Refused):
            outcome.__traceback__ = None  # which keeps what was refused
        if isinstance(outcome, Exception):
            work.future.set_exception(outcome)
        else:
            work.future.set_result(outcome)


class Decoders:
    """Threads that decode.

    Args:
        limits: of images, and of how long they may wait.
        decoded: is given what has its patches, in a thread.
    """

    def __init__(self, limits: Limits, decoded: Callable[[Work], None]) -> None:
        self._limits, self._decoded = limits, decoded
        self._small: deque[Work] = deque()
        self._large: deque[Work] = deque()
        self._most_large = max(1, min(MOST_THREADS, available_cores()))
        self._at_large = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{number}", daemon=True)
            for number in range(self._most_large + 1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait to be decoded."""
        return len(self._small) + len(self._large)

    def submit(self, work: Work) -> None:
        """Decode it soon."""
        work.since = time.monotonic()
        with self._changed:
            self._small.append(work)
            self._changed.notify()

    def drop_late(self) -> None:
        """Refuse what has waited for too long, and forget what nobody waits for; to be called now and then."""
        with self._changed:
            late = [work for lane in (self._small, self._large) for work in lane if self._is_late(work)]
            for work in late:
                (self._small if work in self._small else self._large).remove(work)
        for work in late:
            work.end(Refused(400, GONE) if work.gone() else _crowded())

    def close(self, seconds: float) -> None:
        """Refuse what waits, and end the threads; one that is in the middle of an image is left to itself then."""
        with self._changed:
            self._closed = True
            left = [*self._small, *self._large]
            self._small.clear()
            self._large.clear()
            self._changed.notify_all()
        for work in left:
            work.end(_crowded())
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _is_late(self, work: Work) -> bool:
        return not work.wanted or time.monotonic() - work.since > self._limits.wait

    def _run(self) -> None:
        while taken := self._next():
            work, large = taken
            try:
                self._decode(work, large)
            except Exception as problem:
                work.end(problem)
            finally:
                self._leave(large)
            del work, taken  # else they stay until the next comes

    def _next(self) -> tuple[Work, bool] | None:
        """The next request to decode, and whether it stood in the lane of large images; None once all is closed."""
        with self._changed:
            while not self._closed:
                if self._small:
                    return self._small.popleft(), False
                if self._large and self._at_large < self._most_large:
                    self._at_large += 1
                    return self._large.popleft(), True
                self._changed.wait()
        return None

    def _leave(self, large: bool) -> None:
        if large:
            with self._changed:
                self._at_large -= 1
                self._changed.notify()

    def _decode(self, work: Work, large: bool) -> None:
        """Decode one file after the other, until all are, nobody waits for them any more, or others come first."""
        patches = self._room_for(work)
        while work.row < len(work.files):
            began, file = time.monotonic(), work.files[work.row]
            size = read_header_size(file.content)
            if self._closed or not work.wanted:
                work.end(Refused(400, GONE) if work.gone() else _crowded())
                return
            if not large and (work.used > QUANTUM or takes_long(size, work.model)):
                self._stand_in_line(work)
                return
            try:
                patches[work.row] = fit(file.content, size, work.model, self._limits, patches[work.row])
            except MemberRejected as reason:
                work.faults.append((file.name or f"image {work.row + 1}", explained(str(reason), work.model)))
            work.used += time.monotonic() - began
            work.row += 1
        work.drop()
        if work.faults:
            raise faulty(work.faults)
        self._decoded(work)

    @staticmethod
    def _room_for(work: Work) -> Patches:
        """Where its patches are put, which counts as memory too."""
        if work.patches is None:
            shape = (len(work.files), *work.model.served.patch_size, 3)
            work.share(math.prod(shape))
            work.patches = np.empty(shape, np.uint8)
        return work.patches

    def _stand_in_line(self, work: Work) -> None:
        with self._changed:
            if admitted := len(self._large) < LARGE_WAITING:
                work.since = time.monotonic()
                self._large.append(work)
                self._changed.notify()
        if not admitted:
            work.end(_crowded())


def takes_long(size: tuple[int, int], model: Model) -> bool:
    """Whether an image of this width and height is decoded, and not soon."""
    return size[0] * size[1] > SMALL and bool(model.point["resized"])


def _crowded() -> Refused:
    return busy("too many large images are waiting", 2)


def faulty(faults: list[tuple[str, str]]) -> Refused:
    """A refusal that names images and their faults."""
    first = f"{faults[0][0]}: {faults[0][1]}"
    return Refused(422, first if len(faults) == 1 else f"{len(faults)} images can't be graded; {first}", faults)


def read_patch(file: Sent, model: Model, limits: Limits) -> Patch:
    """Decode an image and bring it to the model's size, as `histopipe predict` does, (height, width, 3).

    Raises:
        Refused: it can't be graded.
    """
    try:
        return fit(file.content, read_header_size(file.content), model, limits)
    except MemberRejected as reason:
        raise faulty([(file.name or "image 1", explained(str(reason), model))]) from None


def fit(content: bytes, size: tuple[int, int], model: Model, limits: Limits, into: Patch | None = None) -> Patch:
    """As `read_patch`, of an image whose width and height are known; `into` is used where it needs no change of size.

    Raises:
        MemberRejected: it can't be graded.
    """
    pixels, wanted, resized = size[0] * size[1], model.served.patch_size, model.point["resized"]
    if pixels > limits.pixels:
        raise MemberRejected("absurd dimensions")
    if not resized and (max(size) > max(wanted) or min(size) > min(wanted)):  # however it is turned
        raise MemberRejected("larger than a patch")  # undecoded: four million pixels take a tenth of a second
    return (resize_patch if resized else pad_patch)(decode_patch(content, into), wanted)


def explained(reason: str, model: Model) -> str:
    """A rejection with its remedy."""
    height, width = model.served.patch_size
    remedies = {
        "larger than a patch": f"larger than a patch of {width} x {height} pixels: cut it into patches",
        "absurd dimensions": "more pixels than an image may have: cut it into patches",
        "not a readable image": "not a readable PNG, JPEG, TIFF or BMP image",
    }
    return remedies.get(reason, reason)
