"""Taking turns at a file that several processes, checkouts or users read, change and write.

The lock is the kernel's, on the file itself: a killed process holds none, and no second file lies about.
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

WAIT_SECONDS = 300.0  # far longer than any table takes to be written; a stopped process could hold it for ever
RETRY_SECONDS = 0.02
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


@contextmanager
def exclusive_lock(path: Path, busy: str = "", wait: float | None = None) -> Iterator[None]:
    """Hold a lock file that stands for something else, such as a stage; inside, nobody else does who asks for it too.

    Args:
        path: of the lock file; its folder is made.
        busy: what to say where another process holds it for longer.
        wait: seconds; as long as it takes by default.

    Raises:
        BusyError: another process holds it for longer.
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
    """Tell whether a process holds a lock file that is there."""
    try:
        with exclusive_lock(path, wait=0):
            return False
    except BusyError:
        return True


@contextmanager
def locked_file(path: Path, *, required: bool = True) -> Iterator[None]:
    """Hold the lock of a file that is going to be replaced; inside, nobody else does who asks for it too.

    A file that isn't there is made, empty and for its owner alone, and goes again if it is still empty at the end.

    Args:
        path: the file itself, not a link to it.
        required: whether to refuse a file system that has no locks, rather than to go on without.

    Raises:
        BusyError: another process holds it for longer than five minutes.
        HistopipeError: the file system has no locks.
        OSError: the file can't be opened for writing.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(descriptor, path, deadline, required)
            if not _is(descriptor, path):  # replaced by the one who had it before: the lock is another file's
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
                f"{path} can't be locked, so that two processes could undo each other's rows: name a place on a file "
                "system with locks"
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
        HistopipeError: they can't.
        OSError: the folder can't be written to.
    """
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile(dir=folder, prefix=".locking.") as stream:
        _wait_for(stream.fileno(), folder, 0.0)


def flush_file(path: Path) -> None:
    """Wait until a file, and its name, are on the disk: after a power cut they are there."""
    for each, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(each, flags)
        try:
            with suppress(OSError):  # some network file systems refuse it of folders
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
