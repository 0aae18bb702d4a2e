"""Drop the lines that TensorFlow writes at every start (no GPU driver, oneDNN is on) from a command's output.

Its C++ libraries write them to file descriptor 2 before anything can be configured. So the descriptor is redirected to
a filter while TensorFlow is imported. The filter is a separate process, so that lines before a crash are still written.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FLUSH_SECONDS = 2.0  # for the filter's last lines to come out before the command's own

# remarks and warnings of C++ files, and their errors about a missing GPU or a plugin that is registered twice
STARTUP_LINES = (
    r"^WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR$",
    r"^[IW][0-9]{4} [0-9:.]+ +[0-9]+ [a-z0-9_/]+\.cc:[0-9]+\] ",
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]+: [IW] [a-z0-9_/]+\.cc:[0-9]+\] ",
    r"^E.*\.cc:[0-9]+\] (failed call to cuInit|Unable to register cu[A-Z]+ factory)",
)


def drop_startup_lines() -> None:
    """Filter TensorFlow's output during its import, whichever module of this process imports it first."""
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """An import finder that loads TensorFlow under the filter."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = partial(_load_filtered, spec.loader.exec_module)
            spec.loader.exec_module = load  # type: ignore[method-assign]
        return spec


def _load_filtered(load: Any, module: ModuleType) -> None:
    with startup_lines_dropped():
        load(module)
        module.config.list_physical_devices()  # where CUDA has no GPU, the first request writes a line


@contextmanager
def startup_lines_dropped() -> Iterator[None]:
    """Redirect file descriptor 2 to the filter inside the block; do nothing if `grep` isn't installed."""
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield
        return
    child = _filter_into(stderr)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        if child:
            with suppress(subprocess.TimeoutExpired):  # a process that was started meanwhile still writes through it
                child.wait(FLUSH_SECONDS)


def _filter_into(stderr: int) -> subprocess.Popen[bytes] | None:
    command = ["grep", "--text", "--line-buffered", "--invert-match", "--extended-regexp"]
    try:
        child = subprocess.Popen(
            [*command, "|".join(STARTUP_LINES)],
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the command
        )
    except OSError:
        return None
    assert child.stdin is not None
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    return child
