"""Read parts of a slide ahead in threads: OpenSlide decodes without holding Python's global interpreter lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from histopipe.core.processes import available_cores

THREADS = 4  # at most: more would wait for the disk and for each other

Part = TypeVar("Part")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """Yield the result of `read` for each part, in their order; only a few are read ahead, to bound memory."""
    threads = min(THREADS, available_cores())
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(read, part))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
