"""The service counts memory for as long as it is used, decodes images in turn, and limits its log."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from histopipe.service import decoding
from histopipe.service.decoding import DecoderPool, PredictionRequest
from histopipe.service.limits import Limits
from histopipe.service.logs import BURST, PERIOD, RateLimitFilter
from histopipe.service.problems import RequestError
from histopipe.service.protocol import TransferProgress
from histopipe.service.reading import MIN_RATE, MemoryBudget, UploadedFile

PATIENCE = 30.0


def picture(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (200, 120, 160)).save(stream, "TIFF", compression="tiff_deflate")
    return stream.getvalue()


SMALL, LARGE = picture(50), picture(2000)


def model(resized: bool = True) -> Any:
    return SimpleNamespace(served=SimpleNamespace(patch_size=(50, 50)), point={"resized": resized})


async def outcome(
    decoders: DecoderPool,
    budget: MemoryBudget,
    contents: list[bytes],
    is_gone: Callable[[], bool] = lambda: False,
    resized: bool = True,
) -> Any:
    """Return the outcome of a request with such images."""
    loop = asyncio.get_running_loop()
    with budget.share() as memory:
        for content in contents:
            memory.take(len(content))
        files = [UploadedFile("p", content) for content in contents]
        deadline = time.monotonic() + PATIENCE
        request = PredictionRequest(model(resized), files, memory, deadline, is_gone, loop.create_future(), loop)
        decoders.submit(request)
        try:
            return (await request.future)[0]
        except RequestError as refusal:
            return refusal.status


@pytest.fixture
def decoders() -> Any:
    threads = DecoderPool(Limits(wait=0.5), lambda request: request.finish([float(len(cast(Any, request.patches)))]))
    yield threads
    threads.close(PATIENCE)


def test_small_images_do_not_wait_for_large_ones(decoders: DecoderPool) -> None:
    async def ask() -> tuple[list[Any], int]:
        budget = MemoryBudget(2**30)
        large = [asyncio.create_task(outcome(decoders, budget, [LARGE] * 64)) for _ in range(30)]
        await asyncio.sleep(0.3)
        small = [await outcome(decoders, budget, [SMALL] * 4) for _ in range(10)]
        for _ in range(30):
            decoders.drop_late()
            await asyncio.sleep(0.1)
        return small, sum(task.done() and task.result() == 429 for task in large)

    small, refused = asyncio.run(ask())
    assert small == [4.0] * 10
    assert refused >= 30 - decoding.MAX_THREADS  # those that wait are told so in time


def test_large_images_are_refused_by_their_header_where_they_are_not_resized(decoders: DecoderPool) -> None:
    began = time.monotonic()
    assert asyncio.run(outcome(decoders, MemoryBudget(2**30), [LARGE] * 64, resized=False)) == 422
    assert time.monotonic() - began < 3  # decoding them takes 7


def test_decoding_ends_when_the_client_goes_away_and_gives_back_its_memory(decoders: DecoderPool) -> None:
    async def ask() -> tuple[Any, int]:
        budget, left = MemoryBudget(2**30), threading.Event()
        task = asyncio.create_task(outcome(decoders, budget, [LARGE] * 640, left.is_set))
        await asyncio.sleep(0.3)
        assert budget.held > 0
        left.set()
        return await asyncio.wait_for(task, PATIENCE / 3), budget.held

    assert asyncio.run(ask()) == (400, 0)


def test_memory_is_given_back_once_nobody_works_with_it() -> None:
    budget = MemoryBudget(100)
    with budget.share() as memory:
        memory.take(60)
        memory.retain()
        with pytest.raises(RequestError), budget.share() as other:
            other.take(50)
    assert budget.held == 60  # a thread still uses it
    memory.release()
    assert budget.held == 0


def test_a_slow_reader_is_told_from_a_steady_one() -> None:
    steady, stalled = TransferProgress(), TransferProgress()
    seen = [(steady.is_slow(now, now * 2 * MIN_RATE, 4), stalled.is_slow(now, 10**6, 4)) for now in range(20)]
    assert not any(slow for slow, _ in seen)
    assert [now for now, (_, slow) in enumerate(seen) if slow] == [4, 8, 12, 16]


def test_a_place_of_the_code_writes_a_few_lines_a_minute() -> None:
    now = [0.0]
    rate_limit = RateLimitFilter(lambda: now[0])

    def write(line: int) -> str | None:
        record = logging.LogRecord("x", logging.WARNING, "file.py", line, "line %d", (line,), None)
        return record.getMessage() if rate_limit.filter(record) else None

    assert sum(write(1) is not None for _ in range(1000)) == BURST
    assert write(2) == "line 2"
    now[0] = PERIOD
    assert write(1) == f"line 1 ({1000 - BURST:,} earlier ones were suppressed)"


def test_patches_that_are_decoded_count_as_memory(decoders: DecoderPool) -> None:
    content = SMALL
    room = len(content) + int(np.prod((50, 50, 3))) - 1
    assert asyncio.run(outcome(decoders, MemoryBudget(room), [content])) == 429
    assert asyncio.run(outcome(decoders, MemoryBudget(room + 1), [content])) == 1.0
