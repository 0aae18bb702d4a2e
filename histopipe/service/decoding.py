"""Decode the images of all clients in threads; images of clients that no longer wait are dropped.

Small and large images have separate queues, and one thread decodes small images only: a patch of 7 kB doesn't wait for
another client's images of 4 million pixels, whose files can be just as small. A request that waits for too long is
refused. The files of a request are dropped as soon as they are decoded, or the request is refused or no longer awaited.
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

from histopipe.core.processes import available_cores
from histopipe.data.store import Patches
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch, decode_patch, pad_patch, read_header_size, resize_patch
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import RequestError, busy_error
from histopipe.service.reading import MemoryShare, UploadedFile

MAX_THREADS = 4  # for large images; one more thread decodes small images only
SMALL = 512 * 512  # pixels of an image that is decoded quickly, whatever it contains
QUANTUM = 0.2  # seconds of decoding after which a request moves to the queue of large images
MAX_LARGE_WAITING = 16  # requests with large images that may wait, so that memory is left for others
CLIENT_GONE = "the client went away"

Outcome = list[float] | Exception


@dataclass(eq=False)
class PredictionRequest:
    """The images of one request, from their files to their probabilities.

    Attributes:
        model: the model that was in use when the request came; it predicts the images.
        files: the files as they were sent; empty once they are decoded or dropped.
        memory: the memory that the request uses; held until the files are dropped.
        deadline: monotonic time in seconds after which the request is no longer awaited.
        is_gone: returns whether the client went away.
        future: receives the probabilities or the error.
        loop: the event loop of the future.
        patches: decoded images, uint8 (files, height, width, 3).
        next_file: position of the file that is decoded next.
        faults: names of images that can't be predicted, with the reasons.
        queued_at: monotonic time in seconds at which the request entered its queue.
        decode_seconds: time spent on decoding so far.
    """

    model: Model
    files: list[UploadedFile]
    memory: MemoryShare
    deadline: float
    is_gone: Callable[[], bool]
    future: asyncio.Future[list[float]]
    loop: asyncio.AbstractEventLoop
    patches: Patches | None = None
    next_file: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    queued_at: float = 0.0
    decode_seconds: float = 0.0
    _holds_memory: bool = True

    def __post_init__(self) -> None:
        self.memory.retain()

    @property
    def count(self) -> int:
        """Number of decoded patches; 0 before decoding begins."""
        return 0 if self.patches is None else len(self.patches)

    @property
    def is_awaited(self) -> bool:
        """Return whether the client still waits for the result."""
        return not self.future.done() and not self.is_gone() and time.monotonic() < self.deadline

    def drop_files(self) -> None:
        """Drop the files and release their memory."""
        self.files.clear()
        if self._holds_memory:
            self._holds_memory = False
            self.memory.release()

    def finish(self, outcome: Outcome) -> None:
        """Drop files and patches and pass the outcome to the client; can be called from any thread."""
        self.drop_files()
        self.patches = None
        set_results_from_thread(self.loop, [(self, outcome)])


def set_results_from_thread(loop: asyncio.AbstractEventLoop, outcomes: list[tuple[PredictionRequest, Any]]) -> None:
    """Call `set_results` in the event loop, from another thread; do nothing if the loop has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(set_results, outcomes)


def set_results(outcomes: list[tuple[PredictionRequest, Any]]) -> None:
    """Set the futures of requests to their outcomes; must be called in the event loop."""
    for request, outcome in outcomes:
        if request.future.done():
            continue
        if isinstance(outcome, RequestError):
            outcome.__traceback__ = None  # it would keep the refused files in memory
        if isinstance(outcome, Exception):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)


class DecoderPool:
    """Threads that decode the images of requests.

    Args:
        limits: limits on images and on the time that requests may wait.
        on_decoded: is called, in a thread, with every request whose images are decoded.
    """

    def __init__(self, limits: Limits, on_decoded: Callable[[PredictionRequest], None]) -> None:
        self._limits, self._on_decoded = limits, on_decoded
        self._small: deque[PredictionRequest] = deque()
        self._large: deque[PredictionRequest] = deque()
        self._max_large = max(1, min(MAX_THREADS, available_cores()))
        self._decoding_large = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{number}", daemon=True)
            for number in range(self._max_large + 1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that wait to be decoded."""
        return len(self._small) + len(self._large)

    def submit(self, request: PredictionRequest) -> None:
        """Queue a request for decoding."""
        request.queued_at = time.monotonic()
        with self._changed:
            self._small.append(request)
            self._changed.notify()

    def drop_late(self) -> None:
        """Refuse requests that have waited for too long, and drop those that are no longer awaited.

        Must be called regularly.
        """
        with self._changed:
            late = [request for queue in (self._small, self._large) for request in queue if self._is_late(request)]
            for request in late:
                (self._small if request in self._small else self._large).remove(request)
        for request in late:
            request.finish(_drop_reason(request))

    def close(self, seconds: float) -> None:
        """Refuse the requests that wait and end the threads, waiting for them for at most the given time."""
        with self._changed:
            self._closed = True
            waiting = [*self._small, *self._large]
            self._small.clear()
            self._large.clear()
            self._changed.notify_all()
        for request in waiting:
            request.finish(_overload_error())
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _is_late(self, request: PredictionRequest) -> bool:
        return not request.is_awaited or time.monotonic() - request.queued_at > self._limits.wait

    def _run(self) -> None:
        while entry := self._next():
            request, large = entry
            try:
                self._decode(request, large)
            except Exception as problem:
                request.finish(problem)
            finally:
                self._end_large(large)
            del request, entry  # otherwise they stay in memory until the next request comes

    def _next(self) -> tuple[PredictionRequest, bool] | None:
        """Wait for the next request; return it with whether it is of large images, or None once the pool is closed."""
        with self._changed:
            while not self._closed:
                if self._small:
                    return self._small.popleft(), False
                if self._large and self._decoding_large < self._max_large:
                    self._decoding_large += 1
                    return self._large.popleft(), True
                self._changed.wait()
        return None

    def _end_large(self, large: bool) -> None:
        if large:
            with self._changed:
                self._decoding_large -= 1
                self._changed.notify()

    def _decode(self, request: PredictionRequest, large: bool) -> None:
        """Decode the files in turn, until all are decoded, the client is gone, or others have to be decoded first."""
        patches = self._allocate(request)
        while request.next_file < len(request.files):
            started, file = time.monotonic(), request.files[request.next_file]
            size = read_header_size(file.content)
            if self._closed or not request.is_awaited:
                request.finish(_drop_reason(request))
                return
            if not large and (request.decode_seconds > QUANTUM or is_slow_to_decode(size, request.model)):
                self._queue_as_large(request)
                return
            self._decode_next(request, size, patches[request.next_file])
            request.decode_seconds += time.monotonic() - started
            request.next_file += 1
        request.drop_files()
        if request.faults:
            raise image_error(request.faults)
        self._on_decoded(request)

    def _decode_next(self, request: PredictionRequest, size: tuple[int, int], into: Patch) -> None:
        file = request.files[request.next_file]
        try:
            into[...] = fit_patch(file.content, size, request.model, self._limits, into)
        except MemberRejected as reason:
            name = file.name or f"image {request.next_file + 1}"
            request.faults.append((name, reason_with_remedy(str(reason), request.model)))

    @staticmethod
    def _allocate(request: PredictionRequest) -> Patches:
        """Return the array for the decoded patches, which counts as memory of the request."""
        if request.patches is None:
            shape = (len(request.files), *request.model.served.patch_size, 3)
            request.memory.take(math.prod(shape))
            request.patches = np.empty(shape, np.uint8)
        return request.patches

    def _queue_as_large(self, request: PredictionRequest) -> None:
        with self._changed:
            if admitted := len(self._large) < MAX_LARGE_WAITING:
                request.queued_at = time.monotonic()
                self._large.append(request)
                self._changed.notify()
        if not admitted:
            request.finish(_overload_error())


def is_slow_to_decode(size: tuple[int, int], model: Model) -> bool:
    """Return whether an image of this width and height takes long to decode.

    False also for images that are refused undecoded because the model doesn't resize them.
    """
    return size[0] * size[1] > SMALL and bool(model.point["resized"])


def _overload_error() -> RequestError:
    return busy_error("too many large images are waiting", 2)


def _drop_reason(request: PredictionRequest) -> RequestError:
    return RequestError(400, CLIENT_GONE) if request.is_gone() else _overload_error()


def image_error(faults: list[tuple[str, str]]) -> RequestError:
    """Return the error for images that can't be predicted, which names them and the reasons."""
    first = f"{faults[0][0]}: {faults[0][1]}"
    return RequestError(422, first if len(faults) == 1 else f"{len(faults)} images can't be predicted; {first}", faults)


def read_patch(file: UploadedFile, model: Model, limits: Limits) -> Patch:
    """Decode an image and bring it to the model's patch size, as `histopipe predict` does.

    Returns:
        The patch, uint8 (height, width, 3).

    Raises:
        RequestError: the image can't be predicted.
    """
    try:
        return fit_patch(file.content, read_header_size(file.content), model, limits)
    except MemberRejected as reason:
        raise image_error([(file.name or "image 1", reason_with_remedy(str(reason), model))]) from None


def fit_patch(content: bytes, size: tuple[int, int], model: Model, limits: Limits, into: Patch | None = None) -> Patch:
    """Decode an image of known width and height and bring it to the model's patch size.

    Args:
        content: bytes of the image file.
        size: width and height from the file's header.
        model: the model that will predict the patch.
        limits: limits on the image.
        into: array to decode into where the image already has the right size.

    Raises:
        MemberRejected: the image can't be predicted.
    """
    pixels, patch_size, resized = size[0] * size[1], model.served.patch_size, model.point["resized"]
    if pixels > limits.pixels:
        raise MemberRejected("absurd dimensions")
    if not resized and (max(size) > max(patch_size) or min(size) > min(patch_size)):  # in either orientation
        raise MemberRejected("larger than a patch")  # before decoding: 4 million pixels take a tenth of a second
    return (resize_patch if resized else pad_patch)(decode_patch(content, into), patch_size)


def reason_with_remedy(reason: str, model: Model) -> str:
    """Return the reason why an image was rejected, with what to do about it."""
    height, width = model.served.patch_size
    remedies = {
        "larger than a patch": f"larger than a patch of {width} x {height} pixels: cut it into patches",
        "absurd dimensions": "more pixels than an image may have: cut it into patches",
        "not a readable image": "not a readable PNG, JPEG, TIFF or BMP image",
    }
    return remedies.get(reason, reason)
