"""Predict the patches of all clients together, in batches.

Images are decoded in threads, wait in a bounded queue, and are predicted by one thread. No request waits for a batch to
fill up: while one batch is computed the next one gathers, so batches grow with the load. A request that would have to
wait for too long is refused at once.
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
from histopipe.service.decoding import CLIENT_GONE, DecoderPool, PredictionRequest, set_results_from_thread
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import RequestError, busy_error
from histopipe.service.reading import MemoryShare, UploadedFile

LATEST_WEIGHT = 0.1  # weight of the latest batch in the moving average of the time per patch
INITIAL_SECONDS = 1e-3  # assumed time per patch until a batch was timed
REQUEST_SECONDS = 60.0  # time that an admitted request may take, decoding included
CLOSE_SECONDS = 5.0  # time for the last batch when the service stops


class BatchPredictor:
    """A predictor for the requests of one event loop.

    Args:
        limits: limits on the queue and on images.
        on_batch: is called with the number of patches of every batch.
    """

    def __init__(self, limits: Limits, on_batch: Callable[[int], None] = lambda _: None) -> None:
        self._limits, self._on_batch = limits, on_batch
        self._queue: deque[PredictionRequest] = deque()
        self._queued_patches = self._requests = 0
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_patch = INITIAL_SECONDS
        self._decoders = DecoderPool(limits, self._enqueue)
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether the predicting thread still runs."""
        return self._thread.is_alive()

    @property
    def is_full(self) -> bool:
        """Return whether there are as many requests as the limits allow."""
        return self._requests >= self._limits.requests

    @property
    def waiting(self) -> int:
        """Number of patches in the queue."""
        return self._queued_patches

    async def predict(
        self, model: Model, files: list[UploadedFile], memory: MemoryShare, is_gone: Callable[[], bool]
    ) -> list[float]:
        """Compute the calibrated probabilities of images, in their order.

        Args:
            model: the model to predict with.
            files: the images; the list is emptied once they are decoded.
            memory: the memory of the request, held until the images are decoded.
            is_gone: returns whether the client went away; its images are then not predicted.

        Raises:
            RequestError: an image can't be predicted, the queue is full, or the prediction took too long.
        """
        if self.is_full:
            raise busy_error("too many requests at the same time", 1)
        self._require_room(len(files))
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + REQUEST_SECONDS
        request = PredictionRequest(model, files, memory, deadline, is_gone, loop.create_future(), loop)
        self._requests += 1
        try:
            self._decoders.submit(request)
            async with asyncio.timeout(REQUEST_SECONDS):
                return await request.future
        except TimeoutError:
            raise busy_error("the patches weren't predicted in time", 1) from None
        finally:
            self._requests -= 1

    def drop_late(self) -> None:
        """Refuse requests that wait for decoding for too long; must be called regularly."""
        self._decoders.drop_late()

    def close(self) -> None:
        """Predict what is in the queue, then end the threads."""
        started = time.monotonic()
        self._decoders.close(CLOSE_SECONDS)
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(max(0.1, CLOSE_SECONDS - (time.monotonic() - started)))

    def _require_room(self, count: int) -> None:
        queued = self._queued_patches
        wait = (queued + count) * self._seconds_per_patch
        if queued + count > self._limits.queue or (queued and wait > self._limits.wait):
            raise busy_error("too many patches are waiting", math.ceil(wait))

    def _enqueue(self, request: PredictionRequest) -> None:
        """Queue a decoded request; called by the decoding threads."""
        assert request.patches is not None
        with self._changed:
            self._require_room(len(request.patches))
            self._queue.append(request)
            self._queued_patches += len(request.patches)
            self._changed.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._predict_batch(batch)

    def _next_batch(self) -> list[PredictionRequest]:
        """Wait for requests and return a batch of one model; return an empty list once closed and done."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            batch: list[PredictionRequest] = []
            patches = 0
            while self._queue and patches < BATCH_SIZE and (not batch or self._queue[0].model is batch[0].model):
                batch.append(self._queue.popleft())
                patches += batch[-1].count
            self._queued_patches -= patches
            return batch

    def _predict_batch(self, batch: list[PredictionRequest]) -> None:
        awaited, outcomes = _split_by_client(batch)
        started = time.monotonic()
        try:
            probabilities = self._probabilities(awaited)
            ends = np.cumsum([request.count for request in awaited]).tolist()
            outcomes += [
                (request, probabilities[end - request.count : end]) for request, end in zip(awaited, ends, strict=True)
            ]
            if probabilities:
                seconds = (time.monotonic() - started) / len(probabilities)
                self._seconds_per_patch += LATEST_WEIGHT * (seconds - self._seconds_per_patch)
                self._on_batch(len(probabilities))
        except Exception as problem:  # fails this batch only: the next one may well be predicted
            outcomes += [(request, problem) for request in awaited]
        set_results_from_thread(batch[0].loop, outcomes)

    @staticmethod
    def _probabilities(batch: list[PredictionRequest]) -> list[float]:
        blocks = [request.patches for request in batch if request.patches is not None]
        if not blocks:
            return []
        patches = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        probabilities: list[float] = batch[0].model.engine.probabilities(patches).tolist()
        return probabilities


def _split_by_client(
    batch: list[PredictionRequest],
) -> tuple[list[PredictionRequest], list[tuple[PredictionRequest, Any]]]:
    """Separate the requests that are still awaited from the others, which are refused."""
    awaited: list[PredictionRequest] = []
    refused: list[tuple[PredictionRequest, Any]] = []
    for request in batch:
        if request.is_awaited:
            awaited.append(request)
        else:
            refused.append((request, RequestError(400, CLIENT_GONE)))
    return awaited, refused
