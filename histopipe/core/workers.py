"""Work spread over processes, with results in order and in bounded memory; and work done in another one meanwhile.

Processes rather than threads: decoding and drawing release the interpreter's lock only for microseconds at a time, and
two threads that hand it to each other reach .6 of two processes' speed.
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
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Generic[Task, Result]):
    """Processes that compute one function; they start and load its module while this one goes on.

    Args:
        function: a function of a module; it and its tasks and results must be picklable.
        count: how many processes; one means this one.
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
        """Results in the order of `tasks`, which are taken only as they are needed: large ones do no harm.

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


class Beside:
    """Another process that works while this one goes on; its results are files.

    Args:
        modules: what it loads at once, so that the first work given to it finds them there.
        processes: one means that this process does the work itself, when it is given.
    """

    def __init__(self, modules: Sequence[str], processes: int) -> None:
        self._modules = modules
        self._alone = processes < 2
        self._pool: ProcessPoolExecutor | None = None
        self._given: list[Future[Any]] = []

    def __enter__(self) -> Beside:
        if not self._alone:
            self._pool = _started_pool(1, self._modules)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Give it work: a function of a module; the arguments must be picklable."""
        if self._pool is None:
            function(*arguments)
        else:
            self._given.append(self._pool.submit(function, *arguments))

    def wait(self) -> None:
        """Until all that was given is done.

        Raises:
            Exception: what the work raised.
            HistopipeError: the process was killed.
        """
        try:
            for work in self._given:
                work.result()
        except BrokenProcessPool:
            raise _killed() from None


def _started_pool(count: int, modules: Sequence[str]) -> ProcessPoolExecutor:
    """Processes that load the modules while this one goes on."""
    # Spawned, not forked: the same on every system, and safe where the caller has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _start_worker)
    for _ in range(count):
        pool.submit(_load, modules)
    return pool


def _killed() -> HistopipeError:
    return HistopipeError("a worker process was killed, perhaps for want of memory: make room and run again")


def _load(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops its workers
    gc.set_threshold(100_000)  # tasks make objects by the ten thousand, none of them in cycles
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is gone: a worker whose parent was killed would else wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
