"""Run work in several processes, with results in order and bounded memory, or in one background process.

Processes rather than threads: decoding and drawing release the interpreter's lock only for microseconds at a time, so
that two threads reach only 60 % of the speed of two processes.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from histopipe.core.errors import HistopipeError

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Generic[Task, Result]):
    """Processes that compute one function; they start and load its module in parallel to this process.

    Args:
        function: a function of a module; it and its tasks and results must be picklable.
        count: the number of processes; one means that this process computes.

    Example:
        >>> with Workers(decode, count=4) as workers:
        ...     for pixels in workers.in_order(files):
        ...         store.append(pixels)
    """

    def __init__(self, function: Callable[[Task], Result], count: int) -> None:
        self._function = function
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers[Task, Result]:
        if self._count > 1:
            self._pool = _started_pool(self._count, [self._function.__module__])
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield results in the order of `tasks`, which are taken only as needed, so that memory stays bounded.

        Raises:
            HistopipeError: a worker was killed.
        """
        if self._pool is None:
            yield from map(self._function, tasks)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(self._function, task))
                if len(waiting) > 2 * self._count:  # bounds what is held in memory, while no worker runs dry
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise _killed() from None


class BackgroundProcess:
    """A process that works in parallel to this one; its results are files.

    Args:
        modules: modules that the process loads when it starts, so that its first work doesn't wait for them.
        processes: the number of processes available; with one, this process does the work itself, at once.
    """

    def __init__(self, modules: Sequence[str], processes: int) -> None:
        self._modules = modules
        self._alone = processes < 2
        self._pool: ProcessPoolExecutor | None = None
        self._pending: list[Future[Any]] = []

    def __enter__(self) -> BackgroundProcess:
        if not self._alone:
            self._pool = _started_pool(1, self._modules)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start work: a function of a module; the arguments must be picklable."""
        if self._pool is None:
            function(*arguments)
        else:
            self._pending.append(self._pool.submit(function, *arguments))

    def wait(self) -> None:
        """Wait until all work is done.

        Raises:
            Exception: the work raised it.
            HistopipeError: the process was killed.
        """
        try:
            for work in self._pending:
                work.result()
        except BrokenProcessPool:
            raise _killed() from None


def _started_pool(count: int, modules: Sequence[str]) -> ProcessPoolExecutor:
    """Start processes, which load the modules while this one continues."""
    # Spawned, not forked: the same on every system, and safe where the caller has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _start_worker)
    for _ in range(count):
        pool.submit(_load, modules)
    return pool


def _killed() -> HistopipeError:
    return HistopipeError("a worker process was killed, perhaps by a lack of memory: free some and run again")


def _load(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops its workers
    gc.set_threshold(100_000)  # tasks create tens of thousands of objects, none of them in cycles
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent has ended: a worker of a killed parent would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
