"""Locks by which processes, checkouts or users take turns at reading and writing a file.

The lock is the kernel's, on the file itself: a killed process holds none, and no second file is left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from histopipe.core.errors import BusyError, HistopipeError

WAIT_SECONDS = 300.0  # far longer than writing any table takes; a stopped process could hold a lock for ever
RETRY_SECONDS = 0.02
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


@contextmanager
def exclusive_lock(path: Path, busy: str = "", wait: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a lock file, for instance one that belongs to a stage.

    Args:
        path: the lock file; its folder is created.
        busy: the error message if another process holds the lock for longer.
        wait: how many seconds to wait; by default, as long as it takes.

    Raises:
        BusyError: another process holds the lock for longer.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait is None else wait)
    except Timeout:
        raise BusyError(busy or f"another process holds {path}: wait for it to end, then run again") from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether a process holds an existing lock file."""
    try:
        with exclusive_lock(path, wait=0):
            return False
    except BusyError:
        return True


@contextmanager
def locked_file(path: Path, *, required: bool = True) -> Iterator[None]:
    """Hold the lock of a file that is going to be replaced; only one process at a time enters.

    A missing file is created, empty and readable by its owner alone, and deleted if it is still empty at the end.

    Args:
        path: the file itself, not a link to it.
        required: whether to refuse a file system that has no locks, rather than to continue without a lock.

    Raises:
        BusyError: another process holds the lock for longer than five minutes.
        HistopipeError: the file system has no locks.
        OSError: the file can't be opened for writing.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(descriptor, path, deadline, required)
            if not _is(descriptor, path):  # the previous holder replaced the file: this lock is on the old one
                continue
            try:
                yield
            finally:
                _remove_if_empty(descriptor, path)
            return
        finally:
            os.close(descriptor)


def _wait_for(descriptor: int, path: Path, deadline: float, required: bool = True) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BusyError(f"{path} is held by another process: wait for it to end, then run again") from None
            time.sleep(RETRY_SECONDS)
        except OSError as problem:
            if problem.errno not in NO_LOCKS:
                raise
            if not required:
                return
            raise HistopipeError(
                f"{path} can't be locked, so two processes could overwrite each other's rows: name a path on a file "
                "system that has locks"
            ) from None
        else:
            return


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_if_empty(descriptor: int, path: Path) -> None:
    with suppress(OSError):
        if _is(descriptor, path) and not os.fstat(descriptor).st_size:
            path.unlink()


def require_locks(folder: Path) -> None:
    """Check that files of a folder can be locked.

    Raises:
        HistopipeError: the file system has no locks.
        OSError: the folder can't be written to.
    """
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile(dir=folder, prefix=".locking.") as stream:
        _wait_for(stream.fileno(), folder, 0.0)


def flush_file(path: Path) -> None:
    """Wait until a file and its name are on the disk, so that they survive a power cut."""
    for target, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(target, flags)
        try:
            with suppress(OSError):  # some network file systems refuse it for folders
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
