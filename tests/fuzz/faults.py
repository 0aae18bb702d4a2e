"""Readers that do what a campaign is to find out, each at the first input that isn't empty."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.reader import READ, Reader


def crash(content: bytes, _: Path) -> str:
    if content:
        os.kill(os.getpid(), signal.SIGSEGV)
    return READ


def hang(content: bytes, _: Path) -> str:
    while content:
        pass
    return READ


def fail(content: bytes, _: Path) -> str:
    return READ + "x"[len(content)]


def devour(content: bytes, _: Path) -> str:
    return READ if not content else str(len(bytearray(b"x") * (200 * 2**20)))


def overreach(content: bytes, _: Path) -> str:
    return READ if not content else str(len(bytearray(b"x") * 2**33))


def litter(content: bytes, folder: Path) -> str:
    (folder / "more").write_bytes(content)
    return READ


def stray(content: bytes, folder: Path) -> str:
    folder.with_name("beside").write_bytes(content)
    return READ


BYTES = st.binary(max_size=3)
CRASH, HANG, FAIL, DEVOUR, OVERREACH, LITTER, STRAY = (
    Reader(BYTES, read) for read in (crash, hang, fail, devour, overreach, litter, stray)
)
