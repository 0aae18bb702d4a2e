"""The server's memory is counted for as long as it is used, its images are decoded in turn, its log is bounded."""

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
from histopipe.service.decoding import Decoders, Work
from histopipe.service.limits import Limits
from histopipe.service.logs import BURST, PERIOD, Sparing
from histopipe.service.problems import Refused
from histopipe.service.protocol import Progress
from histopipe.service.reading import SLOWEST, Memory, Sent

PATIENCE = 30.0


def picture(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (200, 120, 160)).save(stream, "TIFF", compression="tiff_deflate")
    return stream.getvalue()


SMALL, LARGE = picture(50), picture(2000)


def model(resized: bool = True) -> Any:
    return SimpleNamespace(served=SimpleNamespace(patch_size=(50, 50)), point={"resized": resized})


async def outcome(
    decoders: Decoders,
    memory: Memory,
    contents: list[bytes],
    gone: Callable[[], bool] = lambda: False,
    resized: bool = True,
) -> Any:
    """What becomes of a request's images."""
    loop = asyncio.get_running_loop()
    with memory.share() as share:
        for content in contents:
            share(len(content))
        files = [Sent("p", content) for content in contents]
        work = Work(model(resized), files, share, time.monotonic() + PATIENCE, gone, loop.create_future(), loop)
        decoders.submit(work)
        try:
            return (await work.future)[0]
        except Refused as refusal:
            return refusal.status


@pytest.fixture
def decoders() -> Any:
    threads = Decoders(Limits(wait=0.5), lambda work: work.end([float(len(cast(Any, work.patches)))]))
    yield threads
    threads.close(PATIENCE)


def test_small_images_do_not_wait_for_large_ones(decoders: Decoders) -> None:
    async def ask() -> tuple[list[Any], int]:
        memory = Memory(2**30)
        large = [asyncio.create_task(outcome(decoders, memory, [LARGE] * 64)) for _ in range(30)]
        await asyncio.sleep(0.3)
        small = [await outcome(decoders, memory, [SMALL] * 4) for _ in range(10)]
        for _ in range(30):
            decoders.drop_late()
            await asyncio.sleep(0.1)
        return small, sum(task.done() and task.result() == 429 for task in large)

    small, refused = asyncio.run(ask())
    assert small == [4.0] * 10
    assert refused >= 30 - decoding.MOST_THREADS  # those that wait are told so in time


def test_large_images_are_refused_by_their_header_where_they_are_not_resized(decoders: Decoders) -> None:
    began = time.monotonic()
    assert asyncio.run(outcome(decoders, Memory(2**30), [LARGE] * 64, resized=False)) == 422
    assert time.monotonic() - began < 3  # decoding them takes 7


def test_decoding_ends_when_the_client_goes_away_and_gives_back_its_memory(decoders: Decoders) -> None:
    async def ask() -> tuple[Any, int]:
        memory, left = Memory(2**30), threading.Event()
        task = asyncio.create_task(outcome(decoders, memory, [LARGE] * 640, left.is_set))
        await asyncio.sleep(0.3)
        assert memory.held > 0
        left.set()
        return await asyncio.wait_for(task, PATIENCE / 3), memory.held

    assert asyncio.run(ask()) == (400, 0)


def test_memory_is_given_back_once_nobody_works_with_it() -> None:
    memory = Memory(100)
    with memory.share() as take:
        take(60)
        take.lend()
        with pytest.raises(Refused), memory.share() as other:
            other(50)
    assert memory.held == 60  # a thread works on
    take.release()
    assert memory.held == 0


def test_a_slow_reader_is_told_from_a_steady_one() -> None:
    steady, stalled = Progress(), Progress()
    seen = [(steady.is_slow(now, now * 2 * SLOWEST, 4), stalled.is_slow(now, 10**6, 4)) for now in range(20)]
    assert not any(slow for slow, _ in seen)
    assert [now for now, (_, slow) in enumerate(seen) if slow] == [4, 8, 12, 16]


def test_a_place_of_the_code_writes_a_few_lines_a_minute() -> None:
    now = [0.0]
    sparing = Sparing(lambda: now[0])

    def write(line: int) -> str | None:
        record = logging.LogRecord("x", logging.WARNING, "file.py", line, "line %d", (line,), None)
        return record.getMessage() if sparing.filter(record) else None

    assert sum(write(1) is not None for _ in range(1000)) == BURST
    assert write(2) == "line 2"
    now[0] = PERIOD
    assert write(1) == f"line 1 (and {1000 - BURST:,} more before)"


def test_patches_that_are_decoded_count_as_memory(decoders: Decoders) -> None:
    content = SMALL
    room = len(content) + int(np.prod((50, 50, 3))) - 1
    assert asyncio.run(outcome(decoders, Memory(room), [content])) == 429
    assert asyncio.run(outcome(decoders, Memory(room + 1), [content])) == 1.0
